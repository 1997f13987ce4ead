"""Semantic scores against counting one element after the other, and numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from pano3d.functional.confusion import (
    class_accuracy,
    class_iou,
    confusion_matrix,
    overall_accuracy,
    semantic_counts,
)


def test_confusion_equals_slow_reference() -> None:
    generator = torch.Generator().manual_seed(0)
    gt, predicted = (torch.randint(-1, 6, (2, 5, 4), generator=generator) for _ in range(2))
    expected = torch.zeros(7, 7, dtype=torch.int64)
    for g, p in zip(gt.flatten().tolist(), predicted.flatten().tolist(), strict=True):
        expected[g, p] += 1  # index -1 is the last: void
    assert torch.equal(confusion_matrix(predicted=predicted, gt=gt, num_classes=6), expected)


def test_scores_by_hand() -> None:
    gt = torch.tensor([0, 0, 0, 0, 1, 1, -1, -1])
    predicted = torch.tensor([0, 0, 1, -1, 1, 2, 0, -1])
    counts = semantic_counts(predicted=predicted, gt=gt, num_classes=4)
    # class 0: 2 right, 4 labelled, 2 predicted there (and 1 on void); class 1: 1, 2, 2; class 2: only predicted
    torch.testing.assert_close(class_iou(counts), torch.tensor([2 / 4, 1 / 3, 0, math.nan]).double(), equal_nan=True)
    with_void = torch.tensor([2 / 5, 1 / 3, 0, math.nan]).double()
    torch.testing.assert_close(class_iou(counts, count_gt_void=True), with_void, equal_nan=True)
    accuracy = torch.tensor([2 / 4, 1 / 2, math.nan, math.nan]).double()
    torch.testing.assert_close(class_accuracy(counts), accuracy, equal_nan=True)
    assert float(overall_accuracy(counts)) == 3 / 6


def test_counts_add_up() -> None:
    generator = torch.Generator().manual_seed(1)
    gt, predicted = (torch.randint(-1, 3, (4, 5), generator=generator) for _ in range(2))
    whole = semantic_counts(predicted=predicted, gt=gt, num_classes=3)
    parts = [semantic_counts(predicted=predicted[i], gt=gt[i], num_classes=3) for i in range(4)]
    total = parts[0] + parts[1] + parts[2] + parts[3]
    for name in ('correct', 'labelled', 'predicted', 'predicted_on_void'):
        assert torch.equal(getattr(total, name), getattr(whole, name))


def test_ground_truth_fed_back_scores_one() -> None:
    gt = torch.tensor([[0, 0, 2], [2, -1, 2]])
    counts = semantic_counts(predicted=gt, gt=gt, num_classes=4)
    assert torch.equal(class_iou(counts)[[0, 2]], torch.ones(2).double())
    assert torch.equal(class_iou(counts).isnan(), torch.tensor([False, True, False, True]))
    assert float(overall_accuracy(counts)) == 1.0


def test_order_of_elements_does_not_matter_and_classes_may_be_renamed() -> None:
    generator = torch.Generator().manual_seed(2)
    gt, predicted = (torch.randint(-1, 4, (200,), generator=generator) for _ in range(2))
    order, names = torch.randperm(200, generator=generator), torch.tensor([2, 0, 3, 1, -1])
    turned = semantic_counts(predicted=names[predicted[order]], gt=names[gt[order]], num_classes=4)
    expected = semantic_counts(predicted=predicted, gt=gt, num_classes=4)
    for name in ('correct', 'labelled', 'predicted', 'predicted_on_void'):
        assert torch.equal(getattr(turned, name)[names[:4]], getattr(expected, name)), name


def test_nothing_labelled_is_undefined() -> None:
    void = torch.full((3,), -1)
    counts = semantic_counts(predicted=torch.zeros(3).long(), gt=void, num_classes=2)
    assert class_iou(counts).isnan().all()
    assert overall_accuracy(counts).isnan()


@pytest.mark.parametrize(
    ('predicted', 'gt', 'message'),
    [
        (torch.zeros(2, 3).long(), torch.zeros(2, 4).long(), r'`gt`, \(2, 4\), got \(2, 3\)'),
        (torch.tensor([3]), torch.tensor([0]), r'`predicted` must lie in \[-1, 2\] for 3 classes, got \[3, 3\]'),
        (torch.tensor([0]), torch.tensor([-2]), r'`gt` must lie in \[-1, 2\] for 3 classes, got \[-2, -2\]'),
    ],
)
def test_refuses(predicted: torch.Tensor, gt: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        semantic_counts(predicted=predicted, gt=gt, num_classes=3)
