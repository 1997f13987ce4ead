"""Which frames of a scene make a sample."""

from __future__ import annotations

from typing import Any

import numpy as np

from pano3d.registry import TRANSFORMS

from .base import Transform


@TRANSFORMS.register_module()
class RandomStrideViews(Transform):
    """Training views v, v + s, ..., v + (N - 1) s of a random start v and a random stride s.

    s is uniform in 1..`max_stride`, limited to what the length of the scene allows; then v is uniform.

    Args:
        num_views: N.
        max_stride: in frames of the converted scene (which holds e.g. every 20th frame of the recording).

    Raises:
        ValueError: if the scene has fewer than N frames.
    """

    def __init__(self, *, num_views: int, max_stride: int = 4) -> None:
        if num_views < 1 or max_stride < 1:
            raise ValueError(f'`num_views` and `max_stride` must be positive, got {num_views} and {max_stride}')
        self.num_views = num_views
        self.max_stride = max_stride

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        scene, rng = results['scene'], results['rng']
        steps = self.num_views - 1
        last = len(scene.frames) - 1
        if last < steps:
            raise ValueError(
                f'scene {scene.scene_id} has {last + 1} frames, {self.num_views} views are asked for; '
                f'set `min_frames={self.num_views}` of the dataset to leave such scenes out'
            )
        stride = int(rng.integers(1, min(self.max_stride, last // steps) + 1)) if steps else 1
        start = int(rng.integers(last - steps * stride + 1))
        return {**results, 'views': [scene.frames[start + i * stride] for i in range(self.num_views)]}


@TRANSFORMS.register_module()
class LinspaceViews(Transform):
    """Evaluation views spread evenly over the scene, first and last frame included; no randomness.

    A scene with fewer frames gives all of them.

    Args:
        num_views: how many; positions are numpy.linspace, rounded down.
    """

    def __init__(self, *, num_views: int) -> None:
        if num_views < 1:
            raise ValueError(f'`num_views` must be positive, got {num_views}')
        self.num_views = num_views

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        frames = results['scene'].frames
        positions = np.linspace(0, len(frames) - 1, min(self.num_views, len(frames))).astype(int)
        return {**results, 'views': [frames[i] for i in positions]}


@TRANSFORMS.register_module()
class ShuffleViews(Transform):
    """Put the views in random order, so that any of them may be the first, the reference. Before LoadViews."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        views = results['views']
        return {**results, 'views': [views[i] for i in results['rng'].permutation(len(views))]}
