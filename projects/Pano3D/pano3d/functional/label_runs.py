"""Runs of equal labels in NumPy, which compares faster than PyTorch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]

# Elements that are looked at together: so few that they stay in the cache. A run is cut where a block ends.
BLOCK = 2**16


def find_runs(labels: tuple[Labels, ...], num_images: int) -> tuple[Labels, ...]:
    """Neighbouring elements of one image that are equal in all labels.

    Args:
        labels: each (N,), the images one after another, in equal parts.
        num_images: how many.

    Returns:
        Every label (R,) of the runs, their lengths (R,) and images (R,).
    """
    total = len(labels[0])
    size = max(total // max(num_images, 1), 1)
    blocks = [_find_in_block(labels, start, size) for start in range(0, total, BLOCK)]
    nothing = (np.empty(0, np.int64),) * (len(labels) + 1)
    *values, last = (np.concatenate(columns) for columns in zip(nothing, *blocks, strict=True))
    image_ends = np.searchsorted(last, size * np.arange(num_images + 1))
    image = np.repeat(np.arange(num_images), np.diff(image_ends))
    return *values, np.diff(last, prepend=-1), image


def _find_in_block(labels: tuple[Labels, ...], start: int, size: int) -> tuple[Labels, ...]:
    """Values of labels (N,) at the runs of one block, and the last element of each run.

    Args:
        labels: of all images.
        start: first element of the block.
        size: elements of an image.
    """
    labels = tuple(label[start : start + BLOCK] for label in labels)
    is_last = np.empty(labels[0].shape, bool)
    differs, buffer = is_last[:-1], np.empty(len(is_last) - 1, bool)
    np.not_equal(labels[0][1:], labels[0][:-1], out=differs)
    for label in labels[1:]:
        differs |= np.not_equal(label[1:], label[:-1], out=buffer)
    is_last[-1] = True
    is_last[(-1 - start) % size :: size] = True  # where an image ends
    last = np.flatnonzero(is_last)
    return *(label.take(last) for label in labels), last + start
