"""Semantic segmentation scores from counts per class: IoU and accuracy.

Categories are indices into the label space, -1 = void. Elements with void ground truth are left out; void predicted on
a labelled element is a miss of its class and no false positive of any other.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class SemanticCounts:
    """The sums of a confusion matrix that the scores need, each (C,) int64. Counts add up with `+`.

    Args:
        correct: labelled elements predicted as their class.
        labelled: elements of the class in the ground truth.
        predicted: elements predicted as the class on labelled ground truth.
        predicted_on_void: elements predicted as the class on void ground truth.
    """

    correct: Tensor
    labelled: Tensor
    predicted: Tensor
    predicted_on_void: Tensor

    def __add__(self, other: SemanticCounts) -> SemanticCounts:
        return SemanticCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def to(self, device: torch.device | str) -> SemanticCounts:
        return SemanticCounts(*(getattr(self, f.name).to(device) for f in fields(self)))


def confusion_matrix(*, predicted: Tensor, gt: Tensor, num_classes: int) -> Tensor:
    """Counts (C + 1, C + 1) int64 of category pairs; rows: ground truth, columns: prediction, the last of each: void.

    Args:
        predicted: (...) integer, -1 = void.
        gt: (...) integer, -1 = void.
        num_classes: C.

    Raises:
        ValueError: if the shapes differ or a category is outside the label space.
    """
    if predicted.shape != gt.shape:
        raise ValueError(f'`predicted` must have the shape of `gt`, {tuple(gt.shape)}, got {tuple(predicted.shape)}')
    for name, category in (('predicted', predicted), ('gt', gt)):
        if category.numel() and not -1 <= category.min() <= category.max() < num_classes:
            raise ValueError(
                f'`{name}` must lie in [-1, {num_classes - 1}] for {num_classes} classes, '
                f'got [{category.min()}, {category.max()}]'
            )
    size = num_classes + 1
    row, column = (category.flatten().long() % size for category in (gt, predicted))  # -1 becomes C
    return torch.bincount(row * size + column, minlength=size * size).view(size, size)


def semantic_counts(*, predicted: Tensor, gt: Tensor, num_classes: int) -> SemanticCounts:
    """Counts per class; arguments and errors as `confusion_matrix`."""
    confusion = confusion_matrix(predicted=predicted, gt=gt, num_classes=num_classes)
    labelled = confusion[:-1]
    return SemanticCounts(
        correct=labelled.diagonal().clone(),
        labelled=labelled.sum(1),
        predicted=labelled[:, :-1].sum(0),
        predicted_on_void=confusion[-1, :-1].clone(),
    )


def class_iou(counts: SemanticCounts, *, count_gt_void: bool = False) -> Tensor:
    """TP / (TP + FP + FN) of every class, (C,) float64; nan for a class in neither prediction nor ground truth.

    Args:
        counts: sums over all images.
        count_gt_void: also count predictions on void ground truth as false positives (SIU3R).
    """
    predicted = counts.predicted + counts.predicted_on_void if count_gt_void else counts.predicted
    return counts.correct.double() / (counts.labelled + predicted - counts.correct)


def class_accuracy(counts: SemanticCounts) -> Tensor:
    """TP / ground truth elements of every class, (C,) float64; nan for a class without ground truth."""
    return counts.correct.double() / counts.labelled


def overall_accuracy(counts: SemanticCounts) -> Tensor:
    """Share of the labelled elements that are right, () float64; nan if nothing is labelled."""
    return counts.correct.sum().double() / counts.labelled.sum()
