"""Panoptic quality: segments of one image are matched and counted per class; scores follow from the counts.

An image is one view, or all views of a scene put together, or a point set: only corresponding labels matter, so every
function takes labels of any shape and flattens them. What labels and segments are, see `SegmentOverlap`.

Counting takes place on the CPU, and its results are there.

Source: Kirillov et al., "Panoptic Segmentation", CVPR 2019, and the conventions of the public evaluators named below.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from .crowd_regions import mark_crowds
from .label_runs import Labels
from .segment_overlap import SegmentOverlap


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
    gt_crowd: Tensor | None = None,
    absent_classes_count: bool = False,
    min_size: int = 1,
    stacked: bool = False,
) -> PanopticCounts:
    """Match the segments of one image, or of several, and count per class.

    Segments of one class match when IoU > 0.5, strictly, where predicted elements on void ground truth are left out of
    the union. A predicted segment without a match is excused when more than half of it, strictly, lies on void ground
    truth. The defaults are the rules of COCO's panopticapi.

    Args:
        predicted_category: (...) integer, -1 = void.
        predicted_instance: (...) integer, >= 0.
        gt_category: (...) integer, -1 = void.
        gt_instance: (...) integer, >= 0.
        is_stuff: (C,) bool.
        excuse_predicted_void: forgive void predictions as torchmetrics does: elements of a ground truth segment under
            predicted void are left out of the union, and an unmatched one with more than half of it there is excused.
        gt_crowd: (...) bool, true on all elements of ground truth segments that stand for several objects. They match
            nothing and are not missed; for predictions of its class one excuses as void does. Of several in one class
            and image only the one with the largest id excuses, as in panopticapi. None: there is none.
        absent_classes_count: list all classes, so that one without any segment scores 0 (SIU3R), instead of only
            those with a count (COCO, torchmetrics).
        min_size: an unmatched segment with fewer elements counts neither as missed nor as wrong.
        stacked: every entry along the first dimension is an image of its own; their counts are added up.

    Raises:
        ValueError: if shapes differ, a category is outside the label space, or an instance id is negative.
    """
    one_segment = is_stuff
    if gt_crowd is not None:
        if predicted_category.numel() and predicted_category.max() >= len(is_stuff):
            raise ValueError(
                f'`predicted_category` must lie in [-1, {len(is_stuff) - 1}] for {len(is_stuff)} classes, '
                f'got {predicted_category.max()}'
            )
        gt_category = mark_crowds(gt_category, gt_instance, gt_crowd, num_classes=len(is_stuff), stacked=stacked)
        one_segment = torch.cat([is_stuff, is_stuff.new_ones(len(is_stuff) + 1)])
    overlap = SegmentOverlap.of(
        predicted_category=predicted_category,
        predicted_instance=predicted_instance,
        gt_category=gt_category,
        gt_instance=gt_instance,
        is_stuff=one_segment,
        stacked=stacked,
    )
    return _count(
        overlap,
        len(is_stuff),
        excuse_predicted_void=excuse_predicted_void,
        absent_classes_count=absent_classes_count,
        min_size=min_size,
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
    stacked: bool = False,
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
        stacked: every entry along the first dimension is an image of its own; their counts are added up.

    Raises:
        ValueError: as `panoptic_counts`.
    """
    overlap = SegmentOverlap.of(
        predicted_category=predicted_category,
        predicted_instance=predicted_instance,
        gt_category=gt_category,
        gt_instance=gt_instance,
        is_stuff=is_stuff,
        stacked=stacked,
    )
    overlap, num_classes = overlap.labelled(), len(is_stuff)
    if void_is_class:
        overlap, num_classes = overlap.with_void_class(num_classes), num_classes + 1
    sizes = overlap.class_sizes(num_classes)
    small = (sizes > 0) & (sizes < min_class_share * overlap.image_sizes()[:, None])
    kept = np.any(sizes > 0, axis=0) & ~np.any(small, axis=0)
    counts = _count(overlap.only(kept), num_classes, excuse_predicted_void=True)
    return replace(counts, listed=torch.from_numpy(kept.any(0)))


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
    overlap = SegmentOverlap.of(
        predicted_category=predicted_category,
        predicted_instance=predicted_instance,
        gt_category=gt_category,
        gt_instance=gt_instance,
        is_stuff=is_stuff,
    )
    return _count(overlap.labelled(), len(is_stuff), absent_classes_count=True, min_size=min_points)


def panoptic_quality(counts: PanopticCounts) -> Tensor:
    """PQ, SQ and RQ of every class, (3, C) float64 in [0, 1].

    PQ = IoU sum / (TP + FP / 2 + FN / 2), SQ = IoU sum / TP, RQ = TP / (TP + FP / 2 + FN / 2). A listed class without a
    true positive scores 0; classes that are not listed are nan, so that `nanmean` gives the mean over classes.
    """
    matched = counts.true_positives.double()
    segments = matched + (counts.false_positives + counts.false_negatives) / 2
    scores = torch.stack([counts.iou_sum / segments, counts.iou_sum / matched, matched / segments])
    return torch.where(counts.listed, scores.nan_to_num(nan=0.0), torch.nan)


def _count(
    overlap: SegmentOverlap,
    num_classes: int,
    *,
    excuse_predicted_void: bool = False,
    absent_classes_count: bool = False,
    min_size: int = 1,
) -> PanopticCounts:
    elements, gt_class, predicted_class, image = (getattr(overlap, f.name) for f in fields(overlap))
    void_row = overlap.void_row
    on_gt_void = elements[void_row]
    under_predicted_void = elements[:, 0] if excuse_predicted_void else np.zeros_like(elements[:, 0])
    gt_size, predicted_size = elements.sum(1), np.add.reduceat(elements, void_row)
    countable = (gt_class >= 0) & (gt_class < num_classes)
    excused = on_gt_void + _on_crowd(overlap, num_classes)
    union = (gt_size - under_predicted_void)[:, None] + (predicted_size - on_gt_void)[image] - elements
    # In integers, so that an IoU of exactly one half is no match.
    matched = (gt_class[:, None] == predicted_class[image]) & countable[:, None] & (2 * elements > union)
    missed = countable & ~matched.any(1) & (2 * under_predicted_void <= gt_size) & (gt_size >= min_size)
    wrong = (predicted_class >= 0) & ~np.logical_or.reduceat(matched, void_row)
    wrong &= (2 * excused <= predicted_size) & (predicted_size >= max(min_size, 1))  # it may have lost all

    row, column = matched.nonzero()
    members = gt_class[row], predicted_class[wrong], gt_class[missed]
    counts = np.stack([np.bincount(classes, minlength=num_classes) for classes in members])
    iou = elements[row, column] / union[row, column]
    iou_sum = np.bincount(gt_class[row], weights=iou, minlength=num_classes).astype(np.float64)  # int if none
    listed = (counts > 0).any(0) | absent_classes_count
    return PanopticCounts(*(torch.from_numpy(values) for values in (*counts, iou_sum, listed)))


def _on_crowd(overlap: SegmentOverlap, num_classes: int) -> Labels:
    """(images, P) elements that predicted segments share with the crowd of their class, see `mark_crowds`."""
    shared = np.zeros_like(overlap.predicted_class)
    for row in np.flatnonzero(overlap.gt_class >= num_classes):
        image = overlap.image[row]
        same = overlap.predicted_class[image] == overlap.gt_class[row] - num_classes
        shared[image, same] = overlap.elements[row, same]
    return shared
