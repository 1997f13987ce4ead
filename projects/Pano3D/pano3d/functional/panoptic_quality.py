"""Panoptic quality: segments of one image are matched and counted per class; scores follow from the counts.

An image is one view, or all views of a scene put together, or a point set: only corresponding labels matter, so every
function takes labels of any shape and flattens them.

Labels are a category (index into the label space, -1 = void) and an instance id (>= 0) per element. All elements of one
stuff class form one segment whatever their ids; a thing segment is a pair (category, instance).

Source: Kirillov et al., "Panoptic Segmentation", CVPR 2019, and the conventions of the public evaluators named below.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

# Larger ids are numbered anew: counting in bins is faster than sorting while the bins are few.
MAX_INSTANCE = 4096


@dataclass(frozen=True)
class PanopticCounts:
    """What matching leaves per class. Counts of several images add up with `+`.

    Args:
        true_positives: (C,) int64, matched pairs of segments.
        false_positives: (C,) int64, predicted segments without a match that are not excused.
        false_negatives: (C,) int64, ground truth segments without a match that are not excused.
        iou_sum: (C,) float64, sum of IoU over the matched pairs.
        listed: (C,) bool, the classes over which a mean runs.
    """

    true_positives: Tensor
    false_positives: Tensor
    false_negatives: Tensor
    iou_sum: Tensor
    listed: Tensor

    def __add__(self, other: PanopticCounts) -> PanopticCounts:
        return PanopticCounts(
            self.true_positives + other.true_positives,
            self.false_positives + other.false_positives,
            self.false_negatives + other.false_negatives,
            self.iou_sum + other.iou_sum,
            self.listed | other.listed,
        )

    def to(self, device: torch.device | str) -> PanopticCounts:
        return PanopticCounts(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def panoptic_counts(
    *,
    predicted_category: Tensor,
    predicted_instance: Tensor,
    gt_category: Tensor,
    gt_instance: Tensor,
    is_stuff: Tensor,
    excuse_predicted_void: bool = False,
    absent_classes_count: bool = False,
    min_size: int = 1,
) -> PanopticCounts:
    """Match the segments of one image and count per class.

    Segments of one class match when IoU > 0.5, strictly, where predicted elements on void ground truth are left out of
    the union. A predicted segment without a match is excused when more than half of it, strictly, lies on void ground
    truth. There are no crowd regions. The defaults are the rules of COCO's panopticapi.

    Args:
        predicted_category: (...) integer, -1 = void.
        predicted_instance: (...) integer, >= 0.
        gt_category: (...) integer, -1 = void.
        gt_instance: (...) integer, >= 0.
        is_stuff: (C,) bool.
        excuse_predicted_void: forgive void predictions as torchmetrics does: elements of a ground truth segment under
            predicted void are left out of the union, and an unmatched one with more than half of it there is excused.
        absent_classes_count: list all classes, so that one without any segment scores 0 (SIU3R), instead of only
            those with a count (COCO, torchmetrics).
        min_size: an unmatched segment with fewer elements counts neither as missed nor as wrong.

    Raises:
        ValueError: if shapes differ, a category is outside the label space, or an instance id is negative.
    """
    _check_labels(predicted_category, predicted_instance, gt_category, gt_instance, is_stuff)
    predicted_index, predicted_class = _segments(predicted_category, predicted_instance, is_stuff)
    gt_index, gt_class = _segments(gt_category, gt_instance, is_stuff)
    shape = len(gt_class), len(predicted_class)
    overlap = torch.bincount(gt_index * shape[1] + predicted_index, minlength=shape[0] * shape[1]).view(shape)

    on_gt_void = overlap[0]
    under_predicted_void = overlap[:, 0] if excuse_predicted_void else torch.zeros_like(overlap[:, 0])
    gt_size, predicted_size = overlap.sum(1), overlap.sum(0)
    union = (gt_size - under_predicted_void)[:, None] + (predicted_size - on_gt_void) - overlap
    # In integers, so that an IoU of exactly one half is no match.
    matched = (gt_class[:, None] == predicted_class) & (gt_class >= 0)[:, None] & (2 * overlap > union)
    missed = (gt_class >= 0) & ~matched.any(1) & (2 * under_predicted_void <= gt_size) & (gt_size >= min_size)
    wrong = (predicted_class >= 0) & ~matched.any(0) & (2 * on_gt_void <= predicted_size) & (predicted_size >= min_size)

    num_classes = len(is_stuff)
    row, column = matched.nonzero(as_tuple=True)
    iou = overlap[row, column].double() / union[row, column]
    true_positives = torch.bincount(gt_class[row], minlength=num_classes)
    false_positives = torch.bincount(predicted_class[wrong], minlength=num_classes)
    false_negatives = torch.bincount(gt_class[missed], minlength=num_classes)
    return PanopticCounts(
        true_positives,
        false_positives,
        false_negatives,
        iou_sum=iou.new_zeros(num_classes).index_add_(0, gt_class[row], iou),
        listed=(true_positives + false_positives + false_negatives > 0) | absent_classes_count,
    )


def panoptic_lifting_counts(
    *,
    predicted_category: Tensor,
    predicted_instance: Tensor,
    gt_category: Tensor,
    gt_instance: Tensor,
    is_stuff: Tensor,
    min_class_share: float = 0.005,
    void_is_class: bool = True,
) -> PanopticCounts:
    """Counts by the rules of Panoptic Lifting's evaluation code, for comparison with tables made by it.

    Elements on void ground truth are removed first. A class whose share of the rest, in the prediction or in the ground
    truth, is above zero but under `min_class_share` becomes void on both sides; the classes left are listed, also those
    without a count. Then `panoptic_counts` with `excuse_predicted_void`. Source: Siddiqui et al., "Panoptic Lifting",
    CVPR 2023.

    Args:
        predicted_category: (...) integer, -1 = void.
        predicted_instance: (...) integer, >= 0.
        gt_category: (...) integer, -1 = void.
        gt_instance: (...) integer, >= 0.
        is_stuff: (C,) bool.
        min_class_share: smallest share of the elements that keeps a class; 0 keeps all.
        void_is_class: treat predicted void as one more stuff class, the last of then C + 1.

    Raises:
        ValueError: as `panoptic_counts`.
    """
    _check_labels(predicted_category, predicted_instance, gt_category, gt_instance, is_stuff)
    labelled = gt_category >= 0
    gt_category, gt_instance = gt_category[labelled].long(), gt_instance[labelled]
    predicted_category, predicted_instance = predicted_category[labelled].long(), predicted_instance[labelled]
    if void_is_class:
        predicted_category = torch.where(predicted_category < 0, len(is_stuff), predicted_category)
        is_stuff = torch.cat([is_stuff, is_stuff.new_ones(1)])

    sizes = torch.stack([torch.bincount(c[c >= 0], minlength=len(is_stuff)) for c in (predicted_category, gt_category)])
    small = (sizes > 0) & (sizes < min_class_share * gt_category.numel())
    listed = (sizes > 0).any(0) & ~small.any(0)
    counts = panoptic_counts(
        predicted_category=_keep_classes(predicted_category, listed),
        predicted_instance=predicted_instance,
        gt_category=_keep_classes(gt_category, listed),
        gt_instance=gt_instance,
        is_stuff=is_stuff,
        excuse_predicted_void=True,
    )
    return PanopticCounts(counts.true_positives, counts.false_positives, counts.false_negatives, counts.iou_sum, listed)


def point_panoptic_counts(
    *,
    predicted_category: Tensor,
    predicted_instance: Tensor,
    gt_category: Tensor,
    gt_instance: Tensor,
    is_stuff: Tensor,
    min_points: int = 1,
) -> PanopticCounts:
    """Counts by the rules of mmdet3d's evaluation of point sets, which OneFormer3D uses too.

    Points on void ground truth are removed first, so that nothing is excused; then `panoptic_counts`, where all classes
    are listed, so that an absent one scores 0.

    Args:
        predicted_category: (...) integer, -1 = void.
        predicted_instance: (...) integer, >= 0.
        gt_category: (...) integer, -1 = void.
        gt_instance: (...) integer, >= 0.
        is_stuff: (C,) bool.
        min_points: an unmatched segment with fewer points does not count.

    Raises:
        ValueError: as `panoptic_counts`.
    """
    _check_labels(predicted_category, predicted_instance, gt_category, gt_instance, is_stuff)
    labelled = gt_category >= 0
    return panoptic_counts(
        predicted_category=predicted_category[labelled],
        predicted_instance=predicted_instance[labelled],
        gt_category=gt_category[labelled],
        gt_instance=gt_instance[labelled],
        is_stuff=is_stuff,
        absent_classes_count=True,
        min_size=min_points,
    )


def panoptic_quality(counts: PanopticCounts) -> Tensor:
    """PQ, SQ and RQ of every class, (3, C) float64 in [0, 1].

    PQ = IoU sum / (TP + FP / 2 + FN / 2), SQ = IoU sum / TP, RQ = TP / (TP + FP / 2 + FN / 2). A listed class without a
    true positive scores 0; classes that are not listed are nan, so that `nanmean` gives the mean over classes.
    """
    matched = counts.true_positives.double()
    segments = matched + (counts.false_positives + counts.false_negatives) / 2
    scores = torch.stack([counts.iou_sum / segments, counts.iou_sum / matched, matched / segments])
    return torch.where(counts.listed, scores.nan_to_num(nan=0.0), torch.nan)


def _segments(category: Tensor, instance: Tensor, is_stuff: Tensor) -> tuple[Tensor, Tensor]:
    """Segment of every element (N,), and class of every segment (S,). Segment 0 is void, of class -1, even if empty."""
    category, instance = category.flatten().long(), instance.flatten().long()
    countable = torch.cat([~is_stuff, is_stuff.new_zeros(1)])[category]  # the last entry answers for void, -1
    instance = instance * countable
    if instance.numel() and instance.max() > MAX_INSTANCE:
        instance = instance.unique(return_inverse=True)[1]
    stride = int(instance.max()) + 1 if instance.numel() else 1
    key = (category + 1) * stride + instance
    occurs = torch.bincount(key, minlength=1) > 0
    occurs[0] = True
    return (occurs.cumsum(0) - 1)[key], occurs.nonzero().flatten() // stride - 1


def _keep_classes(category: Tensor, listed: Tensor) -> Tensor:
    return torch.where((category >= 0) & listed[category], category, -1)


def _check_labels(
    predicted_category: Tensor, predicted_instance: Tensor, gt_category: Tensor, gt_instance: Tensor, is_stuff: Tensor
) -> None:
    labels = {
        'predicted_category': predicted_category,
        'predicted_instance': predicted_instance,
        'gt_category': gt_category,
        'gt_instance': gt_instance,
    }
    for name, tensor in labels.items():
        if tensor.shape != gt_category.shape:
            raise ValueError(
                f'`{name}` must have the shape of `gt_category`, {tuple(gt_category.shape)}, got {tuple(tensor.shape)}'
            )
        if not tensor.numel():
            continue
        low, high = (int(value) for value in tensor.aminmax())
        if name.endswith('instance') and low < 0:
            raise ValueError(f'`{name}` must not be negative, got {low}')
        if name.endswith('category') and not -1 <= low <= high < len(is_stuff):
            raise ValueError(
                f'`{name}` must lie in [-1, {len(is_stuff) - 1}] for {len(is_stuff)} classes, got [{low}, {high}]'
            )
