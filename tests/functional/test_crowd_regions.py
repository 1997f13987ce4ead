"""Crowds: which categories they get, by hand; what they do to scores, see test_panoptic_quality."""

from __future__ import annotations

import pytest
import torch

from pano3d.functional.crowd_regions import mark_crowds
from pano3d.functional.panoptic_quality import panoptic_counts


@pytest.mark.parametrize(
    ('stacked', 'expected'), [(False, [[0, 6, 5], [5, 5, -1]]), (True, [[0, 5, 5], [5, 5, -1]])], ids=['one', 'two']
)
def test_the_largest_id_of_a_class_and_image_excuses(stacked: bool, expected: list[list[int]]) -> None:
    category = torch.tensor([[0, 2, 2], [2, 2, -1]], dtype=torch.int16)
    instance = torch.tensor([[0, 70000, 70001], [70001, 70001, 70002]])
    if stacked:
        instance = torch.tensor([[0, 70000, 70000], [1, 1, 70002]])
    marked = mark_crowds(category, instance, category != 0, num_classes=3, stacked=stacked)
    assert marked.tolist() == expected
    assert category.tolist() == [[0, 2, 2], [2, 2, -1]]


def test_no_crowd_changes_nothing() -> None:
    category = torch.tensor([[0, 2], [1, -1]])
    assert torch.equal(
        mark_crowds(category, category, torch.zeros(2, 2, dtype=torch.bool), num_classes=3, stacked=True), category
    )


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'gt_crowd': torch.ones(3, dtype=torch.bool)}, 'gt_crowd'),
        ({'gt_crowd': torch.ones(2, 2)}, 'torch.float32'),
        ({'gt_category': torch.full((2, 2), 3)}, r'`gt_category` must lie in \[-1, 2\]'),
        ({'predicted_category': torch.full((2, 2), 4)}, r'`predicted_category` must lie in \[-1, 2\]'),
    ],
)
def test_refuses(change: dict[str, torch.Tensor], message: str) -> None:
    ones = torch.ones(2, 2, dtype=torch.int64)
    labels = dict.fromkeys(('predicted_category', 'predicted_instance', 'gt_category', 'gt_instance'), ones)
    given = {**labels, 'gt_crowd': ones > 0, 'is_stuff': torch.zeros(3, dtype=torch.bool), **change}
    with pytest.raises(ValueError, match=message):
        panoptic_counts(**given)
