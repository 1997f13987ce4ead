"""Which frames of a scene make a sample, by what they see of each other."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from mmengine.logging import print_log
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from pano3d.datasets.overlap_table import OverlapTable
from pano3d.registry import TRANSFORMS

from .base import Transform


@TRANSFORMS.register_module()
class OverlapViews(Transform):
    """Training views that hang together: each has at least `min_overlap` in common with another, in both directions.

    Starts at a random frame and adds random frames that overlap one of those already chosen, so that the views are one
    connected piece. They come in the order of the recording. Needs `overlap.npz` (tools/measure_overlap.py).

    A scene without N frames that hang together gives N neighbouring frames of the recording instead, with one warning.

    Args:
        num_views: N.
        min_overlap: share of the pixels with depth that each of two views must see of the other, in (0, 1].
        max_overlap: more than this makes two views so alike that one adds nothing to the other; they are not chosen as
            neighbours.

    Raises:
        FileNotFoundError, ValueError: if the scene has no table of overlaps, or fewer than N frames.
    """

    def __init__(self, *, num_views: int, min_overlap: float = 0.2, max_overlap: float = 1.0) -> None:
        if num_views < 1:
            raise ValueError(f'`num_views` must be positive, got {num_views}')
        if not 0 < min_overlap <= max_overlap <= 1:
            raise ValueError(f'0 < `min_overlap` <= `max_overlap` <= 1 must hold, got {min_overlap} and {max_overlap}')
        self.num_views = num_views
        self.min_overlap = min_overlap
        self.max_overlap = max_overlap
        self._warned: set[str] = set()

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        scene, rng = results['scene'], results['rng']
        shares = OverlapTable.read(scene, backend_args=results['backend_args']).shares
        mutual = np.minimum(shares, shares.T)
        linked = (mutual >= self.min_overlap) & (mutual <= self.max_overlap)
        np.fill_diagonal(linked, False)
        _, piece = connected_components(linked, directed=False)
        frames_in_piece = np.bincount(piece)
        starts = np.flatnonzero(frames_in_piece[piece] >= self.num_views)
        chosen = np.zeros(len(linked), bool)
        if not len(starts):
            self._warn(scene.scene_id, int(frames_in_piece.max()), len(linked))
            first = rng.integers(len(linked) - self.num_views + 1)
            chosen[first : first + self.num_views] = True
        else:
            chosen[rng.choice(starts)] = True
        while chosen.sum() < self.num_views:
            chosen[rng.choice(np.flatnonzero(linked[chosen].any(0) & ~chosen))] = True
        return {**results, 'views': [scene.frames[i] for i in np.flatnonzero(chosen)]}

    def _warn(self, scene_id: str, most: int, frames: int) -> None:
        if frames < self.num_views:
            raise ValueError(
                f'scene {scene_id}: {self.num_views} views are asked for, but it has {frames} frames; lower '
                '`num_views`, or leave the scene out with `min_frames` of the data set'
            )
        if scene_id not in self._warned:
            self._warned.add(scene_id)
            print_log(
                f'scene {scene_id}: at most {most} frames hang together by an overlap of {self.min_overlap} to '
                f'{self.max_overlap}; {self.num_views} neighbouring frames are taken instead',
                logger='current',
                level=logging.WARNING,
            )


@TRANSFORMS.register_module()
class SplitKeyframes(Transform):
    """Which views an online network puts into its memory; the others are only rendered, and each overlaps one of these.

    The first view is a keyframe, since it is the reference. Then the view is added that lets most others overlap a
    keyframe, a random one of the best, until there are as many as asked for and at least `min_overlap` of the pixels
    with depth of every other view are seen by one of them; a view that overlaps no other becomes a keyframe. Sets
    `keyframes`, (V,) bool. Needs `overlap.npz` (tools/measure_overlap.py).

    After ShuffleViews. The number of keyframes differs from sample to sample, so that a batch holds one scene.

    Args:
        num_keyframes: how many at least, or (least, most) for a random such number; at most all views.
        min_overlap: share of a rendered view, in (0, 1].

    Raises:
        FileNotFoundError, ValueError: if no views were chosen before, or the scene has no table of overlaps.
    """

    def __init__(self, *, num_keyframes: int | tuple[int, int], min_overlap: float = 0.2) -> None:
        least, most = (num_keyframes, num_keyframes) if isinstance(num_keyframes, int) else num_keyframes
        if not 1 <= least <= most:
            raise ValueError(f'`num_keyframes` must be positive, the least first, got {num_keyframes}')
        if not 0 < min_overlap <= 1:
            raise ValueError(f'`min_overlap` must be in (0, 1], got {min_overlap}')
        self.num_keyframes = (least, most)
        self.min_overlap = min_overlap

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        if 'views' not in results:
            raise ValueError('SplitKeyframes needs `views`: put RandomStrideViews or OverlapViews before it')
        views, rng = results['views'], results['rng']
        table = OverlapTable.read(results['scene'], backend_args=results['backend_args'])
        sees = table.among(views) >= self.min_overlap
        count = min(int(rng.integers(self.num_keyframes[0], self.num_keyframes[1] + 1)), len(views))
        return {**results, 'keyframes': choose_keyframes(sees, count, rng)}


def choose_keyframes(sees: NDArray[np.bool_], count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Keyframes (V,) among V views, the first one included: one of them sees each other view, see `SplitKeyframes`.

    Args:
        sees: (V, V), whether view j (column) sees enough of view i (row).
        count: how many at least, 1 to V.
        rng: breaks ties.
    """
    keyframes = np.zeros(len(sees), bool)
    keyframes[0] = True
    served = sees | np.eye(len(sees), dtype=bool)
    while True:
        unseen = ~served[:, keyframes].any(1)
        if keyframes.sum() >= count and not unseen.any():
            return keyframes
        gain = np.where(keyframes, -1, (served & unseen[:, None]).sum(0))
        keyframes[rng.choice(np.flatnonzero(gain == gain.max()))] = True
