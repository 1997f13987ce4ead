"""The segments of panoptic maps: what a set of masks is matched with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segments:
    """The M segments of B scenes, numbered scene by scene.

    Args:
        category: (M,), class index.
        scene: (M,), which scene, ascending.
        index: (B, V, H, W), the number of each pixel's segment, -1 for void.
    """

    category: Tensor
    scene: Tensor
    index: Tensor


def segments_of(category: Tensor, instance: Tensor) -> Segments:
    """Number the segments of scenes.

    One segment per scene and pair (category, instance) over all its views; stuff has instance 0, so a stuff class is
    one segment.

    Args:
        category: (B, V, H, W), class index or -1 for void.
        instance: (B, V, H, W), > 0 for things, 0 for stuff and void.
    """
    num_categories = category.amax() + 1 if category.numel() else 1
    num_instances = instance.amax() + 1 if instance.numel() else 1
    scene = torch.arange(len(category), device=category.device).view(-1, 1, 1, 1)
    key = (scene * num_categories + category) * num_instances + instance
    key = torch.where(category < 0, -1, key)
    # Neighbours mostly share their segment, so that few keys are left to be sorted.
    runs, run_of_pixel = key.flatten().unique_consecutive(return_inverse=True)
    keys, segment_of_run = runs.unique(return_inverse=True)
    num_void = int((keys < 0).sum())
    index = (segment_of_run - num_void)[run_of_pixel].view_as(key)
    pair = keys[num_void:] // num_instances
    return Segments(pair % num_categories, pair // num_categories, index)
