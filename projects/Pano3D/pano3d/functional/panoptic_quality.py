"""Panoptic quality: segments of one image are matched and counted per class; scores follow from the counts.

An image is one view, or all views of a scene put together, or a point set: only corresponding labels matter, so every
function takes labels of any shape and flattens them.

Labels are a category (index into the label space, -1 = void) and an instance id (>= 0) per element. All elements of one
stuff class form one segment whatever their ids; a thing segment is a pair (category, instance).

Pictures have long runs of equal labels along their rows, so runs are counted and not pixels. They are found in NumPy,
which compares faster than PyTorch: counting takes place on the CPU, and its results are there.

Source: Kirillov et al., "Panoptic Segmentation", CVPR 2019, and the conventions of the public evaluators named below.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Labels = NDArray[np.int64]
Flags = NDArray[np.bool_]

# Elements that are looked at together: so few that they stay in the cache. A run is cut where a block ends.
BLOCK = 2**16
# Larger ids are numbered anew: bins are faster than sorting while they are few.
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
    stacked: bool = False,
) -> PanopticCounts:
    """Match the segments of one image, or of several, and count per class.

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
        stacked: every entry along the first dimension is an image of its own; their counts are added up.

    Raises:
        ValueError: if shapes differ, a category is outside the label space, or an instance id is negative.
    """
    runs = _Runs.of(predicted_category, predicted_instance, gt_category, gt_instance, len(is_stuff), stacked=stacked)
    return _count(
        runs,
        is_stuff,
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
    runs = _Runs.of(predicted_category, predicted_instance, gt_category, gt_instance, len(is_stuff), stacked=stacked)
    runs = runs.labelled()
    predicted, gt = runs.predicted_category, runs.gt_category
    if void_is_class:
        predicted = np.where(predicted < 0, len(is_stuff), predicted)
        is_stuff = torch.cat([is_stuff, is_stuff.new_ones(1)])

    num_images, columns = int(runs.image.max(initial=0)) + 1, len(is_stuff) + 1  # column 0: void
    sizes = np.stack(
        [
            np.bincount(runs.image * columns + category + 1, runs.length, minlength=num_images * columns)
            for category in (predicted, gt)
        ]
    ).reshape(2, num_images, columns)
    small = (sizes > 0) & (sizes < min_class_share * sizes.sum(2, keepdims=True))
    listed = ((sizes > 0).any(0) & ~small.any(0))[:, 1:]
    predicted, gt = (
        np.where((category >= 0) & listed[runs.image, category], category, -1) for category in (predicted, gt)
    )
    kept = replace(runs, predicted_category=predicted, gt_category=gt)
    counts = _count(kept, is_stuff, excuse_predicted_void=True)
    return replace(counts, listed=torch.from_numpy(listed.any(0)))


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
    runs = _Runs.of(predicted_category, predicted_instance, gt_category, gt_instance, len(is_stuff)).labelled()
    return _count(runs, is_stuff, absent_classes_count=True, min_size=min_points)


def panoptic_quality(counts: PanopticCounts) -> Tensor:
    """PQ, SQ and RQ of every class, (3, C) float64 in [0, 1].

    PQ = IoU sum / (TP + FP / 2 + FN / 2), SQ = IoU sum / TP, RQ = TP / (TP + FP / 2 + FN / 2). A listed class without a
    true positive scores 0; classes that are not listed are nan, so that `nanmean` gives the mean over classes.
    """
    matched = counts.true_positives.double()
    segments = matched + (counts.false_positives + counts.false_negatives) / 2
    scores = torch.stack([counts.iou_sum / segments, counts.iou_sum / matched, matched / segments])
    return torch.where(counts.listed, scores.nan_to_num(nan=0.0), torch.nan)


@dataclass(frozen=True)
class _Runs:
    """Neighbouring elements with equal labels in one of several images: the four labels of every run, its length and
    its image, all (R,) int64.
    """

    predicted_category: Labels
    predicted_instance: Labels
    gt_category: Labels
    gt_instance: Labels
    length: Labels
    image: Labels

    @classmethod
    def of(
        cls,
        predicted_category: Tensor,
        predicted_instance: Tensor,
        gt_category: Tensor,
        gt_instance: Tensor,
        num_classes: int,
        *,
        stacked: bool = False,
    ) -> _Runs:
        """Runs of labels of any shape; errors as `panoptic_counts`."""
        named = {
            'predicted_category': predicted_category,
            'predicted_instance': predicted_instance,
            'gt_category': gt_category,
            'gt_instance': gt_instance,
        }
        for name, tensor in named.items():
            if tensor.shape != gt_category.shape:
                raise ValueError(
                    f'`{name}` must have the shape of `gt_category`, {tuple(gt_category.shape)}, '
                    f'got {tuple(tensor.shape)}'
                )
        labels = [tensor.cpu().numpy().reshape(-1) for tensor in named.values()]
        num_images, total = len(gt_category) if stacked else 1, gt_category.numel()
        size = max(total // max(num_images, 1), 1)
        blocks = [_find_runs(labels, start, size) for start in range(0, total, BLOCK)]
        nothing = (np.empty(0, np.int64),) * 5
        *values, last = (np.concatenate(columns) for columns in zip(nothing, *blocks, strict=True))
        image_ends = np.searchsorted(last, size * np.arange(num_images + 1))
        image = np.repeat(np.arange(num_images), np.diff(image_ends))
        by_name = dict(zip(named, values, strict=True))
        runs = cls(**by_name, length=np.diff(last, prepend=-1), image=image)
        for name in named:
            _check_range(name, getattr(runs, name), num_classes)
        return runs

    def labelled(self) -> _Runs:
        """Without void ground truth."""
        kept = self.gt_category >= 0
        return _Runs(*(getattr(self, f.name)[kept] for f in fields(self)))


def _count(
    runs: _Runs,
    is_stuff: Tensor,
    *,
    excuse_predicted_void: bool = False,
    absent_classes_count: bool = False,
    min_size: int = 1,
) -> PanopticCounts:
    overlap, gt_class, predicted_class, image = _overlaps(runs, is_stuff.cpu().numpy())
    first = np.flatnonzero(np.diff(image, prepend=-1))  # void of every image
    on_gt_void = overlap[first]
    under_predicted_void = overlap[:, 0] if excuse_predicted_void else np.zeros_like(overlap[:, 0])
    gt_size, predicted_size = overlap.sum(1), np.add.reduceat(overlap, first)
    union = (gt_size - under_predicted_void)[:, None] + (predicted_size - on_gt_void)[image] - overlap
    # In integers, so that an IoU of exactly one half is no match.
    matched = (gt_class[:, None] == predicted_class[image]) & (gt_class >= 0)[:, None] & (2 * overlap > union)
    missed = (gt_class >= 0) & ~matched.any(1) & (2 * under_predicted_void <= gt_size) & (gt_size >= min_size)
    wrong = (predicted_class >= 0) & ~np.logical_or.reduceat(matched, first)
    wrong &= (2 * on_gt_void <= predicted_size) & (predicted_size >= min_size)

    row, column = matched.nonzero()
    members = gt_class[row], predicted_class[wrong], gt_class[missed]
    counts = np.stack([np.bincount(classes, minlength=len(is_stuff)) for classes in members])
    iou = overlap[row, column] / union[row, column]
    iou_sum = np.bincount(gt_class[row], weights=iou, minlength=len(is_stuff)).astype(np.float64)  # int if none
    listed = (counts > 0).any(0) | absent_classes_count
    return PanopticCounts(*(torch.from_numpy(values) for values in (*counts, iou_sum, listed)))


def _find_runs(labels: list[Labels], start: int, size: int) -> tuple[Labels, ...]:
    """Values of several labels (N,) at the runs of one block, and the last element of each run.

    Args:
        labels: of all images.
        start: first element of the block.
        size: elements of an image.
    """
    labels = [label[start : start + BLOCK] for label in labels]
    is_last = np.empty(labels[0].shape, bool)
    differs, buffer = is_last[:-1], np.empty(len(is_last) - 1, bool)
    np.not_equal(labels[0][1:], labels[0][:-1], out=differs)
    for label in labels[1:]:
        differs |= np.not_equal(label[1:], label[:-1], out=buffer)
    is_last[-1] = True
    is_last[(-1 - start) % size :: size] = True  # where an image ends
    last = np.flatnonzero(is_last)
    return *(label.take(last) for label in labels), last + start


def _overlaps(runs: _Runs, is_stuff: Flags) -> tuple[Labels, Labels, Labels, Labels]:
    """Elements that the segments of an image share, as a table of all images.

    Ground truth segments are rows, image by image; the predicted segments of the image are columns, P in the fullest
    image. The first of each is void, of class -1, even if empty.

    Returns:
        Elements (G, P), class (G,) of the rows, class (images, P) of the columns, -1 where an image has fewer, and
        image (G,) of the rows.
    """
    num_images = int(runs.image.max(initial=0)) + 1
    gt_key, gt_number, gt_class, gt_image = _segments(
        runs.gt_category, runs.gt_instance, runs.image, num_images, is_stuff
    )
    key, number, category, image = _segments(
        runs.predicted_category, runs.predicted_instance, runs.image, num_images, is_stuff
    )
    starts = np.searchsorted(image, np.arange(num_images))
    column = np.arange(len(image)) - starts[image]
    width = int(column.max()) + 1
    predicted_class = np.full((num_images, width), -1)
    predicted_class[image, column] = category
    cell = (gt_number * width).take(gt_key)
    cell += (number - starts[:, None]).take(key)
    overlap = np.bincount(cell, weights=runs.length, minlength=len(gt_class) * width)  # float64, exact up to 2^53
    return overlap.astype(np.int64).reshape(-1, width), gt_class, predicted_class, gt_image


def _segments(
    category: Labels, instance: Labels, image: Labels, num_images: int, is_stuff: Flags
) -> tuple[Labels, Labels, Labels, Labels]:
    """Key of every run (R,), segment of every key (images, keys), class and image of every segment (S,)."""
    if instance.max(initial=0) > MAX_INSTANCE:
        instance = np.unique(instance, return_inverse=True)[1]
    names = int(instance.max(initial=0)) + 1
    shape = num_images, len(is_stuff) + 1, names  # in row 0: void
    key = category * names
    key += instance
    key += names
    if num_images > 1:
        key += image * (shape[1] * names)
    occurs = np.bincount(key, minlength=math.prod(shape)).reshape(shape) > 0
    occurs[:, 0, 0] = True
    uncountable = np.r_[True, is_stuff]
    occurs[:, uncountable, 0] = occurs[:, uncountable].any(2)
    occurs[:, uncountable, 1:] = False  # so that all names have the number of the first
    owner, row, _ = occurs.nonzero()
    return key, (occurs.cumsum() - 1).reshape(num_images, -1), row - 1, owner


def _check_range(name: str, label: Labels, num_classes: int) -> None:
    if not label.size:
        return
    low, high = label.min(), label.max()
    if name.endswith('instance') and low < 0:
        raise ValueError(f'`{name}` must not be negative, got {low}')
    if name.endswith('category') and not -1 <= low <= high < num_classes:
        raise ValueError(f'`{name}` must lie in [-1, {num_classes - 1}] for {num_classes} classes, got [{low}, {high}]')
