"""Which frames of a sequence enter the memory of an online network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pano3d.structures import Reconstruction

RenderFrame = Callable[[int], Reconstruction]
"""Frame index -> the one view (1, ...) as the keyframes so far show it."""


class KeyframePolicy(ABC):
    """Chooses keyframes one after another; each enters the memory before the next is asked for."""

    @abstractmethod
    def choose(self, num_frames: int, render: RenderFrame) -> Iterator[int]:
        """Keyframes, ascending, of frames 0 to `num_frames` - 1; the first is 0, the reference.

        Args:
            num_frames: at least 1.
            render: see `RenderFrame`; not before the first keyframe.
        """


class LinspaceKeyframes(KeyframePolicy):
    """At equal distances from the first to the last frame.

    Args:
        count: keyframes; shorter sequences are keyframes throughout.
    """

    def __init__(self, count: int = 20) -> None:
        self.count = _at_least_one(count, 'count')

    def choose(self, num_frames: int, render: RenderFrame) -> Iterator[int]:
        yield from evenly_spaced(num_frames, self.count)


class EveryNthKeyframes(KeyframePolicy):
    """Frames 0, n, 2 n, ...

    Args:
        step: n.
        max_keyframes: stop after so many; None bounds the memory by the length of the sequence alone.
    """

    def __init__(self, step: int, *, max_keyframes: int | None = None) -> None:
        self.step = _at_least_one(step, 'step')
        self.max_keyframes = None if max_keyframes is None else _at_least_one(max_keyframes, 'max_keyframes')

    def choose(self, num_frames: int, render: RenderFrame) -> Iterator[int]:
        yield from list(range(0, num_frames, self.step))[: self.max_keyframes]


class CoverageKeyframes(KeyframePolicy):
    """Frames that show something new, judged by the network's own points.

    A point of a frame is covered if a point of a keyframe lies within `tolerance` times its depth; a frame with less
    than `min_coverage` of its points covered becomes a keyframe. All points are those that the network renders at that
    time, so this follows its errors too. Every examined frame costs one pass.

    Args:
        min_coverage: share of the points, from 0 to 1.
        tolerance: distance over depth; more than the distance of neighbouring samples, about the field of view in
            radians over the square root of `samples`.
        step: examine each n-th frame only.
        max_keyframes: stop after so many.
        samples: points of a frame, about, on a regular grid of pixels.

    Raises:
        ValueError: on values outside their range.
    """

    def __init__(
        self,
        *,
        min_coverage: float = 0.7,
        tolerance: float = 0.05,
        step: int = 1,
        max_keyframes: int = 50,
        samples: int = 4096,
    ) -> None:
        if not 0 <= min_coverage <= 1:
            raise ValueError(f'`min_coverage` must be from 0 to 1, got {min_coverage}')
        if not tolerance > 0:
            raise ValueError(f'`tolerance` must be above 0, got {tolerance}')
        self.min_coverage = min_coverage
        self.tolerance = tolerance
        self.step = _at_least_one(step, 'step')
        self.max_keyframes = _at_least_one(max_keyframes, 'max_keyframes')
        self.samples = _at_least_one(samples, 'samples')

    def choose(self, num_frames: int, render: RenderFrame) -> Iterator[int]:
        yield 0
        seen = [self._sample(render(0))[0]]
        tree = cKDTree(seen[0])
        for index in range(self.step, num_frames, self.step):
            if len(seen) == self.max_keyframes:
                return
            points, depth = self._sample(render(index))
            if self._coverage(tree, points, depth) < self.min_coverage:
                yield index
                seen.append(self._sample(render(index))[0])  # where it lies now that it is in the memory
                tree = cKDTree(np.concatenate(seen))

    def _sample(self, view: Reconstruction) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Valid points (N, 3) and their depths (N,) on a grid of about `samples` pixels."""
        height, width = view.valid.shape[-2:]
        stride = max(1, int(np.ceil(np.sqrt(height * width / self.samples))))
        valid = view.valid[..., ::stride, ::stride]
        return (
            view.points[..., ::stride, ::stride, :][valid].cpu().numpy(),
            view.depth[..., ::stride, ::stride][valid].cpu().numpy(),
        )

    def _coverage(self, tree: cKDTree, points: NDArray[np.float32], depth: NDArray[np.float32]) -> float:
        """Share of the points that are covered; a frame without a point shows nothing new."""
        if not len(points):
            return 1.0
        distance, _ = tree.query(points)
        return float((distance <= self.tolerance * np.abs(depth)).mean())


def evenly_spaced(total: int, count: int) -> list[int]:
    """At most `count` of the indices 0 to `total` - 1, rounded from equal distances, with the first and the last.

    >>> evenly_spaced(11, 3)
    [0, 5, 10]
    """
    if total <= count:
        return list(range(total))
    return np.linspace(0, total - 1, count).round().astype(int).tolist()


def _at_least_one(value: int, name: str) -> int:
    if value < 1:
        raise ValueError(f'`{name}` must be at least 1, got {value}')
    return value
