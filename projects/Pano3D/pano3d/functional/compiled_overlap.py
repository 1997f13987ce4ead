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
        Whether all labels are in range, otherwise the rest is worthless; elements, gt_class, predicted_class, image.
    """
    # Segments are numbered through all images, so that an older number means: not seen in this image.
    row_of = np.full((len(uncountable), num_names), -1, np.int32)
    column_of = np.full((len(uncountable), num_names), -1, np.int32)
    elements = np.zeros((ROOM, ROOM), np.int64)
    gt_class, image_of = np.zeros(ROOM, np.int64), np.zeros(ROOM, np.int64)
    predicted_class = np.full((num_images, ROOM), -1, np.int64)
    size = len(gt_category) // num_images
    rows = columns = width = 0
    usual = True
    for image in range(num_images):
        first_row, first_column = rows, columns
        start = stop = image * size
        p, i, g, j = -1, 0, -1, 0  # an empty run, so that void is the first segment
        while True:
            if min(p, g) < -1 or max(p, g) + 1 >= len(uncountable) or min(i, j) < 0 or max(i, j) >= num_names:
                usual, stop = False, start  # and on with void
                p, i, g, j = -1, 0, -1, 0
            i, j = 0 if uncountable[p + 1] else i, 0 if uncountable[g + 1] else j
            if row_of[g + 1, j] < first_row:
                if rows == len(elements):
                    elements = np.concatenate((elements, np.zeros_like(elements)))
                    gt_class = np.concatenate((gt_class, np.zeros_like(gt_class)))
                    image_of = np.concatenate((image_of, np.zeros_like(image_of)))
                row_of[g + 1, j], gt_class[rows], image_of[rows] = rows, g, image
                rows += 1
            column = column_of[p + 1, i] - first_column
            if column < 0:
                column = columns - first_column
                if column == elements.shape[1]:
                    elements = np.concatenate((elements, np.zeros_like(elements)), axis=1)
                    predicted_class = np.concatenate((predicted_class, np.full_like(predicted_class, -1)), axis=1)
                column_of[p + 1, i], predicted_class[image, column] = columns, p
                columns += 1
            elements[row_of[g + 1, j], column] += stop - start
            if stop == (image + 1) * size or not usual:
                break
            start = stop
            p, i = predicted_category[start], predicted_instance[start]
            g, j = gt_category[start], gt_instance[start]
            stop += 1
            while stop < (image + 1) * size and not (
                (predicted_category[stop] ^ p)
                | (predicted_instance[stop] ^ i)
                | (gt_category[stop] ^ g)
                | (gt_instance[stop] ^ j)
            ):
                stop += 1
        width = max(width, columns - first_column)
    return usual, elements[:rows, :width], gt_class[:rows], predicted_class[:, :width], image_of[:rows]
