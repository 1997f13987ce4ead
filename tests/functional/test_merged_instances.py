"""Merged instances, counted by hand."""

import pytest
import torch

from pano3d.functional.merged_instances import MergedCounts, merged_counts

WALL, CHAIR, TABLE = range(3)
IS_STUFF = torch.tensor([True, False, False])
# 4 elements of each of 4 instances, then 4 of the wall and 2 of nothing
GT_CATEGORY = torch.tensor([CHAIR] * 12 + [TABLE] * 4 + [WALL] * 4 + [-1] * 2)
GT_INSTANCE = torch.tensor([1] * 4 + [2] * 4 + [3] * 4 + [4] * 4 + [0] * 6)


def count(category: list[int], instance: list[int], **options) -> MergedCounts:
    return merged_counts(
        predicted_category=torch.tensor(category),
        predicted_instance=torch.tensor(instance),
        gt_category=GT_CATEGORY,
        gt_instance=GT_INSTANCE,
        is_stuff=IS_STUFF,
        **options,
    )


def test_ground_truth_fed_back_merges_nothing():
    assert count(GT_CATEGORY.tolist(), GT_INSTANCE.tolist()) == MergedCounts(4, 4, 0)


def test_one_segment_over_two_neighbours_merges_both():
    instance = [7] * 8 + [3] * 4 + [4] * 4 + [0] * 6
    assert count(GT_CATEGORY.tolist(), instance) == MergedCounts(4, 4, 2)


def test_the_major_part_is_more_than_half():
    """Segment 7 has all of the first chair and 2 or 3 elements of the second."""
    half = [7] * 4 + [7, 7, 2, 2] + [3] * 4 + [4] * 4 + [0] * 6
    more = [7] * 4 + [7, 7, 7, 2] + [3] * 4 + [4] * 4 + [0] * 6
    assert count(GT_CATEGORY.tolist(), half) == MergedCounts(4, 3, 0)
    assert count(GT_CATEGORY.tolist(), more) == MergedCounts(4, 4, 2)
    assert count(GT_CATEGORY.tolist(), more, major_part=0.75) == MergedCounts(4, 3, 0)
    assert count(GT_CATEGORY.tolist(), half, major_part=0.25) == MergedCounts(4, 4, 2)


def test_classes_need_not_agree():
    category = [TABLE] * 4 + [CHAIR] * 12 + [WALL] * 6
    instance = [7] * 4 + [2] * 4 + [5] * 8 + [0] * 6
    assert count(category, instance) == MergedCounts(4, 4, 2)
    # the same id with another class is another segment
    assert count([TABLE] * 4 + [CHAIR] * 12 + [WALL] * 6, [7] * 8 + [3] * 4 + [4] * 4 + [0] * 6) == MergedCounts(
        4, 4, 0
    )


def test_stuff_and_void_merge_nothing_and_cover_nothing():
    assert count([WALL] * 22, [0] * 22) == MergedCounts(4, 0, 0)
    assert count([-1] * 22, [0] * 22) == MergedCounts(4, 0, 0)


def test_wall_and_void_in_the_ground_truth_are_no_partners():
    """One segment over the last instance, the wall and the void."""
    assert count([CHAIR] * 22, [1] * 4 + [2] * 4 + [3] * 4 + [9] * 10) == MergedCounts(4, 4, 0)


def test_views_are_one_image_and_counts_add_up():
    instance = [7] * 8 + [3] * 4 + [4] * 4 + [0] * 6
    views = [torch.stack([value, value]) for value in (GT_CATEGORY, torch.tensor(instance), GT_CATEGORY, GT_INSTANCE)]
    names = ('predicted_category', 'predicted_instance', 'gt_category', 'gt_instance')
    both = merged_counts(**dict(zip(names, views, strict=True)), is_stuff=IS_STUFF)
    assert both == MergedCounts(4, 4, 2)
    assert both + MergedCounts(10, 5, 3) == MergedCounts(14, 9, 5)


def test_it_agrees_with_a_loop_over_pairs():
    generator = torch.Generator().manual_seed(0)

    def blocks() -> torch.Tensor:
        return torch.randint(0, 6, (2, 3, 4), generator=generator).repeat_interleave(3, 1).repeat_interleave(3, 2)

    found = 0
    for _ in range(30):
        gt, predicted = blocks(), blocks()
        predicted = torch.where(torch.rand(gt.shape, generator=generator) < 0.6, gt // 2, predicted)
        category, guess = torch.tensor([-1, 0, 1, 1, 2, 2])[gt], torch.tensor([-1, 1, 1, 2, 0, 2])[predicted]
        instance = torch.where(category > 0, gt, 0)
        answer = torch.where(guess > 0, predicted, 0)
        covered, merged = set(), set()
        for segment in range(1, 6):
            own = (answer == segment) & (guess > 0)
            inside = [
                number
                for number in range(1, 6)
                if (instance == number).any() and own[instance == number].float().mean() > 0.5
            ]
            covered |= set(inside)
            merged |= set(inside) if len(inside) > 1 else set()
        expected = MergedCounts(len(instance[instance > 0].unique()), len(covered), len(merged))
        counts = merged_counts(
            predicted_category=guess,
            predicted_instance=answer,
            gt_category=category,
            gt_instance=instance,
            is_stuff=IS_STUFF,
        )
        assert counts == expected
        found += len(merged)
    assert found > 5


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match='one shape'):
        count([CHAIR] * 3, [1] * 3)
    with pytest.raises(ValueError, match='major_part'):
        count([CHAIR] * 22, [1] * 22, major_part=1.0)
