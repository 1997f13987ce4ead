"""Read-outs on hand-made queries."""

import pytest
import torch

from pano3d.functional.merging import merge_by_overlap, semantic_probabilities, winner_takes_all

IS_STUFF = torch.tensor([True, False, False])  # wall, chair, table
ON, OFF = 8.0, -8.0


def logits(*labels: int) -> torch.Tensor:
    """Sure queries: class 0..2, or 3 for 'no object'."""
    return 12.0 * torch.eye(4)[list(labels)]


def masks(*rows: str) -> torch.Tensor:
    """One row of pixels per query, '#' is on: (K, 1 view, 1, W)."""
    return torch.tensor([[ON if c == '#' else OFF for c in row] for row in rows])[:, None, None]


@pytest.mark.parametrize('policy', ['winner', 'overlap'])
def test_perfect_queries_give_the_scene_back(policy):
    classes, mask = logits(0, 1, 1), masks('##....', '..##..', '....##')
    if policy == 'winner':
        category, instance, _ = winner_takes_all(classes, mask, IS_STUFF)
    else:
        category, instance, _ = merge_by_overlap(classes, mask, IS_STUFF, score_threshold=0.8, overlap_threshold=0.8)
    assert category.flatten().tolist() == [0, 0, 1, 1, 1, 1]
    assert instance.flatten().tolist() == [0, 0, 2, 2, 3, 3]


def test_queries_of_one_stuff_class_are_one_segment_even_if_they_share_their_mask():
    # Each wall query holds half of its own mask only: judged alone, both would be dropped.
    classes, mask = logits(0, 0), masks('####', '####')
    mask[0, ..., :2] += 1
    mask[1, ..., 2:] += 1
    category, instance, _ = merge_by_overlap(classes, mask, IS_STUFF, score_threshold=0.5, overlap_threshold=0.8)
    assert category.flatten().tolist() == [0, 0, 0, 0]
    assert instance.flatten().tolist() == [0, 0, 0, 0]


def test_a_thing_that_keeps_too_little_of_its_mask_is_dropped():
    classes, mask = logits(1, 2), masks('####', '.###')
    mask[1] += 1
    category, _, _ = merge_by_overlap(classes, mask, IS_STUFF, score_threshold=0.5, overlap_threshold=0.8)
    assert category.flatten().tolist() == [-1, 2, 2, 2]


def test_unsure_and_empty_queries_leave_void():
    classes = torch.cat([logits(3), torch.zeros(1, 4)])
    category, instance, _ = merge_by_overlap(
        classes, masks('##', '##'), IS_STUFF, score_threshold=0.5, overlap_threshold=0.8
    )
    assert category.flatten().tolist() == [-1, -1]
    assert instance.flatten().tolist() == [0, 0]


def test_a_pixel_where_the_best_mask_is_off_stays_void():
    category, _, _ = merge_by_overlap(logits(1), masks('##..'), IS_STUFF, score_threshold=0.5, overlap_threshold=0.8)
    assert category.flatten().tolist() == [1, 1, -1, -1]


def test_marginal_is_the_sum_over_queries_of_class_times_mask():
    generator = torch.Generator().manual_seed(0)
    classes, mask = torch.randn(3, 4, generator=generator), torch.randn(3, 2, 2, 2, generator=generator)
    expected = torch.zeros(3, 2, 2, 2)
    for k in range(3):
        for c in range(3):
            expected[c] += classes[k].softmax(-1)[c] * mask[k].sigmoid()
    torch.testing.assert_close(semantic_probabilities(classes, mask), expected)
