"""Which frames of a scene make a sample."""

from __future__ import annotations

from typing import Any

import numpy as np

from pano3d.datasets.scene_record import check_format, read_json
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
class ListedViews(Transform):
    """Evaluation views by name, from a JSON file, so that a figure can be computed again.

    The file is `{"format": "pano3d-views", "version": 1, "views": {"scene0011_00": ["000000", "000020"]}}`: frame ids
    of each scene in the order of the views. Scenes that are not used may be listed too.

    Args:
        path: the file; may be remote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is of another kind, or does not list the scene or lists frames that the scene lacks.
    """

    def __init__(self, *, path: str) -> None:
        self.path = path
        self._views: dict[str, list[str]] | None = None

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        scene = results['scene']
        if self._views is None:
            self._views = _read_views(self.path, results['backend_args'])
        if scene.scene_id not in self._views:
            raise ValueError(f'{self.path}: no views of scene {scene.scene_id}; it lists {len(self._views)} scenes')
        listed, frames = self._views[scene.scene_id], {frame.id: frame for frame in scene.frames}
        missing = [frame_id for frame_id in listed if frame_id not in frames]
        if missing:
            raise ValueError(
                f'{self.path}: scene {scene.scene_id} has no frames {missing[:5]} among its {len(frames)}; '
                'was it converted with another `--frame-skip`?'
            )
        return {**results, 'views': [frames[frame_id] for frame_id in listed]}


@TRANSFORMS.register_module()
class ShuffleViews(Transform):
    """Put the views in random order, so that any of them may be the first, the reference. Before LoadViews."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        views = results['views']
        return {**results, 'views': [views[i] for i in results['rng'].permutation(len(views))]}


def _read_views(path: str, backend_args: dict[str, Any] | None) -> dict[str, list[str]]:
    record = read_json(path, backend_args=backend_args)
    try:
        check_format(record, 'pano3d-views', 1)
        views = record['views']
        for scene_id, listed in views.items():
            wanted = isinstance(listed, list) and listed and all(isinstance(frame_id, str) for frame_id in listed)
            if not wanted or len(set(listed)) < len(listed):
                raise ValueError(f'views of scene {scene_id}: expected different frame ids, at least one')
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f'{path}: not a list of views ({error!r})') from error
    return dict(views)
