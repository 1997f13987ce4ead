"""The segments of a panoptic map: what a set of masks is matched with."""

from __future__ import annotations

import torch
from torch import Tensor


def segments_of(category: Tensor, instance: Tensor) -> tuple[Tensor, Tensor]:
    """Number the segments of a scene.

    One segment per pair (category, instance) over all views; stuff has instance 0, so a stuff class is one segment.

    Args:
        category: (V, H, W), class index or -1 for void.
        instance: (V, H, W), > 0 for things, 0 for stuff and void.

    Returns:
        Class index per segment (M,), and the segment of every pixel (V, H, W), -1 for void.
    """
    void = category < 0
    base = instance.amax() + 1 if instance.numel() else 1
    key = torch.where(void, torch.full_like(category, -1), category).long() * base + instance
    keys, index = torch.where(void, torch.full_like(key, -1), key).unique(return_inverse=True)
    num_void = int((keys < 0).sum())
    return keys[num_void:] // base, index - num_void
