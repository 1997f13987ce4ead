"""How many elements the segments of a prediction and of the ground truth share: the table that panoptic scores read.

Labels are a category (index into the label space, -1 = void) and an instance id (>= 0) per element. All elements of one
stuff class form one segment whatever their ids; a thing segment is a pair (category, instance).

Pictures have long runs of equal labels along their rows, so runs are counted and not pixels, on the CPU. Where the
optional Numba is installed, a compiled loop reads int64 labels once, at the speed of memory; else NumPy finds the runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .compiled_overlap import compiled_scan
from .label_runs import Labels, find_runs

# Larger ids are numbered anew: bins are faster than sorting while they are few.
MAX_INSTANCE = 2**10


@dataclass(frozen=True)
class SegmentOverlap:
    """Elements that the segments of an image share, as a table of all images.

    Ground truth segments are rows, image by image; the predicted segments of the image are columns, P in the fullest
    image. The first of each is void, of class -1, even if empty.

    Args:
        elements: (G, P) int64.
        gt_class: (G,) int64, class of the rows.
        predicted_class: (images, P) int64, class of the columns, -1 where an image has fewer.
        image: (G,) int64, image of the rows, increasing.
    """

    elements: Labels
    gt_class: Labels
    predicted_class: Labels
    image: Labels

    @classmethod
    def of(
        cls,
        *,
        predicted_category: Tensor,
        predicted_instance: Tensor,
        gt_category: Tensor,
        gt_instance: Tensor,
        is_stuff: Tensor,
        stacked: bool = False,
    ) -> SegmentOverlap:
        """Table of labels of any shape.

        Args:
            predicted_category: (...) integer, in [-1, C).
            predicted_instance: (...) integer, >= 0.
            gt_category: (...) integer, in [-1, C).
            gt_instance: (...) integer, >= 0.
            is_stuff: (C,) bool.
            stacked: every entry along the first dimension is an image of its own; otherwise there is one image.

        Raises:
            ValueError: if shapes differ, a category is outside the label space, or an instance id is negative.
        """
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
        labels = {name: np.ascontiguousarray(tensor.cpu().numpy().reshape(-1)) for name, tensor in named.items()}
        num_images = max(len(gt_category), 1) if stacked else 1
        uncountable = np.r_[True, is_stuff.cpu().numpy()]  # void, then the classes
        scan = compiled_scan()
        if scan is not None and all(label.dtype == np.int64 for label in labels.values()):
            usual, *table = scan(*labels.values(), uncountable, num_images, MAX_INSTANCE)
            if usual:
                return cls(*table)
        return cls._of_runs(labels, uncountable, num_images)

    @classmethod
    def _of_runs(cls, labels: dict[str, Labels], uncountable: NDArray[np.bool_], num_images: int) -> SegmentOverlap:
        *values, length, run_image = find_runs(tuple(labels.values()), num_images)
        for name, value in zip(labels, values, strict=True):
            _check_range(name, value, len(uncountable) - 1)
        predicted_category, predicted_instance, gt_category, gt_instance = values
        gt_key, gt_number, gt_class, gt_image = _segments(gt_category, gt_instance, run_image, num_images, uncountable)
        key, number, category, image = _segments(
            predicted_category, predicted_instance, run_image, num_images, uncountable
        )
        starts = np.searchsorted(image, np.arange(num_images))
        column = np.arange(len(image)) - starts[image]
        width = int(column.max()) + 1
        predicted_class = np.full((num_images, width), -1)
        predicted_class[image, column] = category
        cell = (gt_number * width).take(gt_key)
        cell += (number - starts[:, None]).take(key)
        elements = np.bincount(cell, weights=length, minlength=len(gt_class) * width)  # float64, exact up to 2^53
        return cls(elements.astype(np.int64).reshape(-1, width), gt_class, predicted_class, gt_image)

    @property
    def void_row(self) -> Labels:
        """(images,) the row of void ground truth of every image."""
        return np.flatnonzero(np.diff(self.image, prepend=-1))

    def labelled(self) -> SegmentOverlap:
        """Without the elements on void ground truth."""
        return replace(self, elements=np.where(self.gt_class[:, None] < 0, 0, self.elements))

    def with_void_class(self, void: int) -> SegmentOverlap:
        """Predicted void as one more class, so that none of the prediction is void."""
        predicted_class = self.predicted_class.copy()
        predicted_class[:, 0] = void
        return replace(
            self,
            elements=np.insert(self.elements, 0, 0, axis=1),
            predicted_class=np.insert(predicted_class, 0, -1, axis=1),
        )

    def image_sizes(self) -> Labels:
        """(images,) elements."""
        return np.add.reduceat(self.elements.sum(1), self.void_row)

    def class_sizes(self, num_classes: int) -> Labels:
        """(2, images, classes) elements that the prediction and the ground truth give to each class."""
        num_images, columns = len(self.predicted_class), num_classes + 1  # column 0: void
        predicted = np.arange(num_images)[:, None] * columns + self.predicted_class + 1
        gt = self.image * columns + self.gt_class + 1
        sizes = [
            np.bincount(cell.ravel(), weights=size.ravel(), minlength=num_images * columns)
            for cell, size in (
                (predicted, np.add.reduceat(self.elements, self.void_row)),
                (gt, self.elements.sum(1)),
            )
        ]
        return np.stack(sizes).reshape(2, num_images, columns)[..., 1:].astype(np.int64)

    def only(self, kept: NDArray[np.bool_]) -> SegmentOverlap:
        """The segments of other classes than `kept` (images, classes) become void on both sides."""
        dropped = (self.predicted_class >= 0) & ~np.take_along_axis(kept, self.predicted_class, axis=1)
        moved = np.where(dropped[self.image], self.elements, 0)
        elements = self.elements - moved
        elements[:, 0] += moved.sum(1)
        dropped_row = (self.gt_class >= 0) & ~kept[self.image, self.gt_class]
        np.add.at(elements, self.void_row[self.image[dropped_row]], elements[dropped_row])
        elements[dropped_row] = 0
        return replace(
            self,
            elements=elements,
            gt_class=np.where(dropped_row, -1, self.gt_class),
            predicted_class=np.where(dropped, -1, self.predicted_class),
        )


def _segments(
    category: Labels, instance: Labels, image: Labels, num_images: int, uncountable: NDArray[np.bool_]
) -> tuple[Labels, Labels, Labels, Labels]:
    """Key of every run (R,), segment of every key (images, keys), class and image of every segment (S,)."""
    if instance.max(initial=0) > MAX_INSTANCE:
        instance = np.unique(instance, return_inverse=True)[1]
    names = int(instance.max(initial=0)) + 1
    key = (image * len(uncountable) + category + 1) * names + instance  # of class -1 first: void
    shape = num_images, len(uncountable), names
    occurs = np.bincount(key, minlength=num_images * len(uncountable) * names).reshape(shape) > 0
    occurs[:, 0, 0] = True
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
