"""Voxel scores against a dictionary that is filled point by point, and cases worked out by hand."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from typing import Any

import pytest
import torch

from pano3d.functional.confusion import class_iou
from pano3d.functional.voxels import occupancy_iou, voxel_counts

CLASSES = 4


def make_clouds(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    gt = torch.rand(400, 3, generator=generator) - 0.5
    predicted = gt[:350] + 0.03 * torch.randn(350, 3, generator=generator)
    gt_category = torch.randint(-1, CLASSES, (400,), generator=generator)
    wrong = torch.rand(350, generator=generator) < 0.3
    guess = torch.randint(-1, CLASSES, (350,), generator=generator)
    return {
        'gt_points': gt,
        'gt_category': gt_category,
        'predicted_points': predicted,
        'predicted_category': torch.where(wrong, guess, gt_category[:350]),
    }


def count(clouds: dict[str, torch.Tensor], **choices: Any) -> Any:
    return voxel_counts(**clouds, **{'num_classes': CLASSES, **choices})


def plain_voxels(points: torch.Tensor, category: torch.Tensor, size: float, min_points: int = 1) -> dict:
    """Class by cell, and None where all points are void."""
    cells: dict[tuple[int, ...], list[int]] = {}
    for point, label in zip(points.double().tolist(), category.tolist(), strict=True):
        cells.setdefault(tuple(math.floor(x / size) for x in point), []).append(label)
    found: dict[tuple[int, ...], int | None] = {}
    for cell, members in cells.items():
        votes = Counter(label for label in members if label >= 0)
        if not votes:
            found[cell] = None
        elif sum(votes.values()) >= min_points:
            found[cell] = min(votes, key=lambda label: (-votes[label], label))
    return found


@pytest.mark.parametrize('ignore', [False, True])
@pytest.mark.parametrize(('size', 'min_points'), [(0.1, 1), (0.25, 1), (0.25, 4), (1 / 3, 2)])
def test_counts_equal_a_dictionary_of_cells(ignore: bool, size: float, min_points: int) -> None:
    clouds = make_clouds(0)
    if size == 1 / 3:  # no whole number of micrometres, which adds up far from the origin
        clouds |= {name: clouds[name] * 3 + 1000 for name in ('gt_points', 'predicted_points')}
    counts = count(clouds, voxel_size=size, min_points=min_points, ignore_gt_void_voxels=ignore)
    gt = plain_voxels(clouds['gt_points'], clouds['gt_category'], size, min_points)
    predicted = plain_voxels(clouds['predicted_points'], clouds['predicted_category'], size, min_points)
    if ignore:
        predicted = {cell: label for cell, label in predicted.items() if gt.get(cell, 0) is not None}
    for c in range(CLASSES):
        mine = {cell for cell, label in gt.items() if label == c}
        found = {cell for cell, label in predicted.items() if label == c}
        assert int(counts.correct[c]) == len(mine & found)
        assert int(counts.labelled[c]) == len(mine)
        assert int(counts.predicted[c] + counts.predicted_on_void[c]) == len(found)
    filled = [{cell for cell, label in side.items() if label is not None} for side in (gt, predicted)]
    expected = len(filled[0] & filled[1]) / len(filled[0] | filled[1])
    assert float(occupancy_iou(counts)) == pytest.approx(expected, abs=1e-15)


def cloud(*points_and_class: tuple[float, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Points on the x axis."""
    points = torch.tensor([[x, 0.05, 0.05] for x, _ in points_and_class]).view(-1, 3)
    return points, torch.tensor([c for _, c in points_and_class], dtype=torch.int64)


def count_on_axis(gt: list[tuple[float, int]], predicted: list[tuple[float, int]], **choices: Any) -> Any:
    (gt_points, gt_category), (points, category) = cloud(*gt), cloud(*predicted)
    clouds = {'gt_points': gt_points, 'gt_category': gt_category}
    return count({**clouds, 'predicted_points': points, 'predicted_category': category}, **choices)


def test_equal_votes_go_to_the_smaller_class() -> None:
    counts = count_on_axis([(0.01, 3), (0.02, 1), (0.03, -1), (0.04, -1)], [(0.05, 1)])
    assert counts.labelled.tolist() == [0, 1, 0, 0]
    assert counts.correct.tolist() == [0, 1, 0, 0]


def test_a_wrong_place_costs_twice() -> None:
    iou = class_iou(count_on_axis([(0.05, 1)], [(0.15, 1)]), count_gt_void=True)
    assert float(iou[1]) == 0.0
    iou = class_iou(count_on_axis([(0.05, 1), (0.25, 1)], [(0.05, 1), (0.15, 1)]), count_gt_void=True)
    assert float(iou[1]) == 1 / 3


def test_what_is_predicted_on_void_is_wrong_unless_ignored() -> None:
    gt, predicted = [(0.05, 1), (0.15, -1)], [(0.05, 1), (0.15, 1)]
    assert float(class_iou(count_on_axis(gt, predicted), count_gt_void=True)[1]) == 0.5
    ignoring = count_on_axis(gt, predicted, ignore_gt_void_voxels=True)
    assert float(class_iou(ignoring, count_gt_void=True)[1]) == 1.0


def test_round_off_carries_no_point_over_a_face() -> None:
    gt = torch.tensor([[0.0, 0.3, -0.2], [1.0, 0.7, 0.1]], dtype=torch.float64)
    category = torch.tensor([0, 1])
    for noise in (-1e-9, 1e-9):
        clouds = {'gt_points': gt, 'gt_category': category, 'predicted_points': gt + noise}
        counts = count({**clouds, 'predicted_category': category})
        assert counts.correct.tolist() == [1, 1, 0, 0]


def test_ground_truth_fed_back_scores_one_and_order_does_not_matter() -> None:
    clouds = make_clouds(1)
    same = {**clouds, 'predicted_points': clouds['gt_points'], 'predicted_category': clouds['gt_category']}
    assert class_iou(count(same), count_gt_void=True).eq(1.0).all()
    turned = {}
    for side, size in (('predicted', 350), ('gt', 400)):
        order = torch.randperm(size, generator=torch.Generator().manual_seed(0))
        turned |= {name: clouds[name][order] for name in (f'{side}_points', f'{side}_category')}
    found, expected = count(turned), count(clouds)
    for field in dataclasses.fields(found):
        assert torch.equal(getattr(found, field.name), getattr(expected, field.name)), field.name
    assert float(occupancy_iou(found)) == float(occupancy_iou(expected)) < 1
    assert float(occupancy_iou(count(same))) == 1.0


def test_far_points_are_cells_like_others() -> None:
    counts = count_on_axis([(0.05, 1), (3e5, 2)], [(0.05, 1), (3e5, 2), (-9e8, 3)])
    assert counts.correct.tolist() == [0, 1, 1, 0]
    assert counts.predicted_on_void.tolist() == [0, 0, 0, 1]


def test_nothing_there_is_undefined_and_nothing_found_is_zero() -> None:
    nothing = count_on_axis([(0.05, -1)], [])
    assert class_iou(nothing, count_gt_void=True).isnan().all()
    assert occupancy_iou(nothing).isnan()
    assert float(class_iou(count_on_axis([(0.05, 1)], []), count_gt_void=True)[1]) == 0.0
    assert count_on_axis([], []).labelled.tolist() == [0] * CLASSES


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'gt_points': torch.zeros(400, 2)}, r'`gt_points` must have shape \(N, 3\).* got \(400, 2\)'),
        ({'predicted_category': torch.zeros(3).long()}, r'`predicted_category` \(N,\), got \(350, 3\) and \(3,\)'),
        ({'predicted_points': torch.full((350, 3), torch.nan)}, 'must be finite; 350 of 350 points are not'),
        ({'gt_category': torch.full((400,), 4)}, r'`gt_category` must lie in \[-1, 3\] for 4 classes, got \[4, 4\]'),
    ],
)
def test_refuses(change: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        count({**make_clouds(0), **change})


def test_refuses_a_grid_without_cells() -> None:
    with pytest.raises(ValueError, match='`voxel_size` must be at least a micrometre'):
        count(make_clouds(0), voxel_size=0.0)
