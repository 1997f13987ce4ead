"""One pass over labels that counts the elements which segments share, compiled where Numba is installed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]

ROOM = 64  # segments that fit into the table at first


@cache
def compiled_scan() -> Callable[..., Any] | None:
    """`scan` as machine code, or None without Numba, which is optional."""
    try:
        import numba
    except ImportError:  # not there, or not made for this NumPy
        return None
    try:
        return numba.njit(scan, cache=True)
    except RuntimeError:  # no folder to keep it in, so every process compiles it
        return numba.njit(scan)


def scan(
    predicted_category: Labels,
    predicted_instance: Labels,
    gt_category: Labels,
    gt_instance: Labels,
    uncountable: NDArray[np.bool_],
    num_images: int,
    num_names: int,
) -> tuple[bool, Labels, Labels, Labels, Labels]:
    """The arrays of `SegmentOverlap`; the segments of an image are in the order in which they appear.

    Args:
        predicted_category: (N,), the images one after another.
        predicted_instance: (N,).
        gt_category: (N,).
        gt_instance: (N,).
        uncountable: (1 + C,) bool, true for void and for classes whose elements are one segment.
        num_images: at least 1; the elements belong to them in equal parts.
        num_names: instance ids must be smaller.

    Returns:
        False if a label is out of range, and then the rest is worthless; elements, gt_class, predicted_class, image.
    """
    # Segments are numbered through all images, so that an older number means: not seen in this image.
    row_of = np.full((len(uncountable), num_names), -1, np.int32)
    column_of = np.full((len(uncountable), num_names), -1, np.int32)
    elements = np.zeros((ROOM, ROOM), np.int64)
    gt_class, image_of = np.zeros(ROOM, np.int64), np.zeros(ROOM, np.int64)
    predicted_class = np.full((num_images, ROOM), -1, np.int64)
    size = len(gt_category) // num_images
    rows = columns = width = 0
    # Unsigned numbers are indices without a check for negative ones, and a negative label is too large.
    num_labels, num_ids = np.uintp(len(uncountable)), np.uintp(num_names)
    for image in range(num_images):
        first_row, first_column, end = rows, columns, (image + 1) * size
        start = stop = image * size
        p, i, g, j = -1, 0, -1, 0  # an empty run, so that void is the first segment
        while True:
            predicted, predicted_id, gt, gt_id = np.uintp(p + 1), np.uintp(i), np.uintp(g + 1), np.uintp(j)
            if predicted >= num_labels or gt >= num_labels or predicted_id >= num_ids or gt_id >= num_ids:
                return False, elements, gt_class, predicted_class, image_of
            predicted_id = np.uintp(0) if uncountable[predicted] else predicted_id
            gt_id = np.uintp(0) if uncountable[gt] else gt_id
            if row_of[gt, gt_id] < first_row:
                if rows == len(elements):
                    elements = np.concatenate((elements, np.zeros_like(elements)))
                    gt_class = np.concatenate((gt_class, np.zeros_like(gt_class)))
                    image_of = np.concatenate((image_of, np.zeros_like(image_of)))
                row_of[gt, gt_id], gt_class[rows], image_of[rows] = rows, g, image
                rows += 1
            column = column_of[predicted, predicted_id] - first_column
            if column < 0:
                column = columns - first_column
                if column == elements.shape[1]:
                    elements = np.concatenate((elements, np.zeros_like(elements)), axis=1)
                    predicted_class = np.concatenate((predicted_class, np.full_like(predicted_class, -1)), axis=1)
                column_of[predicted, predicted_id], predicted_class[image, column] = columns, p
                columns += 1
            elements[np.uintp(row_of[gt, gt_id]), np.uintp(column)] += stop - start
            if stop == end:
                break
            start, stop = stop, end
            p, i = predicted_category[start], predicted_instance[start]
            g, j = gt_category[start], gt_instance[start]
            for k in range(np.uintp(start + 1), np.uintp(end)):
                if (
                    (predicted_category[k] ^ p)
                    | (predicted_instance[k] ^ i)
                    | (gt_category[k] ^ g)
                    | (gt_instance[k] ^ j)
                ):
                    stop = np.int64(k)  # type: ignore[assignment]
                    break
        width = max(width, columns - first_column)
    return True, elements[:rows, :width], gt_class[:rows], predicted_class[:, :width], image_of[:rows]
