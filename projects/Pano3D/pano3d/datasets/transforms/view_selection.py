"""Which frames of a scene make a sample."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from pano3d.datasets.view_lists import match_frames, read_view_lists
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
class AllViews(Transform):
    """Every frame of the scene, in the order of the recording."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        return {**results, 'views': list(results['scene'].frames)}


@TRANSFORMS.register_module()
class StrideViews(Transform):
    """Evaluation views whose number in the recording is a multiple of `stride`, e.g. every 20th frame.

    Which ones these are does not depend on how many frames were converted, or left out for want of a pose.

    Args:
        stride: in frames of the recording.

    Raises:
        ValueError: if the frame ids of the scene are no numbers, or frames are wanted that its conversion skipped.
    """

    def __init__(self, *, stride: int) -> None:
        if stride < 1:
            raise ValueError(f'`stride` must be positive, got {stride}')
        self.stride = stride

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        scene = results['scene']
        try:
            numbers = [int(frame.id) for frame in scene.frames]
        except ValueError as error:
            raise ValueError(
                f'scene {scene.scene_id}: frame ids must be numbers of the recording ({error}); use ListedViews'
            ) from error
        views = [frame for frame, number in zip(scene.frames, numbers, strict=True) if number % self.stride == 0]
        if not views or self.stride % scene.frame_skip:
            raise ValueError(
                f'scene {scene.scene_id} was converted with `--frame-skip {scene.frame_skip}` and has {len(views)} of '
                f'every {self.stride}. frame of the recording; `--frame-skip {self.stride}` stores them'
            )
        return {**results, 'views': views}


@TRANSFORMS.register_module()
class ListedViews(Transform):
    """Evaluation views by name, from a file that tools/list_views.py writes, so that a figure can be computed again.

    A data set with this transform has one sample for each list of views in the file. Scenes of the split that are not
    listed have none. If a scene has several lists, their samples are called `<scene id>-<number of the list>`.

    Args:
        path: the file; may be remote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is of another kind, or does not list the scene or lists frames that the scene lacks.
    """

    def __init__(self, *, path: str) -> None:
        self.path = path
        self._views: dict[str, list[list[str]]] | None = None

    def read(self, backend_args: dict[str, Any] | None) -> dict[str, list[list[str]]]:
        """Scene id -> its lists of frame ids."""
        if self._views is None:
            self._views = read_view_lists(self.path, backend_args=backend_args)
        return self._views

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        scene, listed = results['scene'], self.read(results['backend_args'])
        if scene.scene_id not in listed:
            raise ValueError(f'{self.path}: no views of scene {scene.scene_id}; it lists {len(listed)} scenes')
        lists, number = listed[scene.scene_id], results.get('view_list', 0)
        try:
            chosen = match_frames(lists[number], scene)
        except ValueError as error:
            raise ValueError(f'{self.path}: {error}') from error
        frames = {frame.id: frame for frame in scene.frames}
        if len(lists) > 1:
            results = {**results, 'scene': replace(scene, scene_id=f'{scene.scene_id}-{number}')}
        return {**results, 'views': [frames[frame_id] for frame_id in chosen]}


@TRANSFORMS.register_module()
class ShuffleViews(Transform):
    """Put the views in random order, so that any of them may be the first, the reference.

    Raises:
        ValueError: after LoadViews or SplitKeyframes, whose results have an order already.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        if 'color' in results or 'keyframes' in results:
            raise ValueError('ShuffleViews must come before LoadViews and SplitKeyframes')
        views = results['views']
        return {**results, 'views': [views[i] for i in results['rng'].permutation(len(views))]}
