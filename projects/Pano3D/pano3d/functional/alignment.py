"""Bring a reconstruction into the frame of the ground truth: similarity of paired points, closest points."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from .geometry import transform_points
from .registration import register_points

DEGENERATE_RANK = 1e-12
"""Points lie on one line if the second singular value of their covariance is below this share of the first."""


def align_similarity(source: Tensor, target: Tensor) -> Tensor:
    """The Sim(3) (4, 4), [scale * rotation, translation], float64, that brings paired points closest (Umeyama 1991).

    Sets that are equal already are left as they are: ground truth fed back has an error of 0, not of 1e-16.

    Args:
        source: (N, 3), finite.
        target: (N, 3), finite, corresponding points.

    Raises:
        ValueError: if shapes differ, a value is not finite, or the transform is not determined (`is_degenerate`).
    """
    if source.ndim != 2 or source.shape != target.shape or source.shape[-1] != 3:
        raise ValueError(
            f'`source` and `target` must have one shape (N, 3), got {tuple(source.shape)} and {tuple(target.shape)}'
        )
    source, target = check_points(source, 'source'), check_points(target, 'target')
    if is_degenerate(source) or is_degenerate(target):
        raise ValueError(
            f'{len(source)} paired points do not determine a similarity: at least three that are not on one line are '
            'needed, in the prediction and in the ground truth'
        )
    return _fit(source, target, with_scale=True)


def refine_by_icp(
    source: Tensor,
    target: Tensor,
    *,
    max_distance: float = 0.1,
    max_iterations: int = 30,
    tolerance: float = 1e-6,
) -> Tensor:
    """The rigid motion (4, 4), float64, that brings a cloud closer to another: point-to-point ICP (Besl, McKay 1992).

    In each step every source point is paired with the nearest target point, if that is closer than `max_distance`, and
    the motion is fitted to the pairs. Ends when neither the share of paired points nor the root mean square of their
    distances changes by `tolerance`, as Open3D does by default. Without a pair it is the identity.

    Args:
        source: (N, 3), finite, roughly aligned.
        target: (M, 3), finite, unit of `source`.
        max_distance: of a pair, unit of the points.
        max_iterations: most steps.
        tolerance: of the share, and of the distance in the unit of the points.

    Raises:
        ValueError: if a cloud is empty, a shape is wrong or a value is not finite.
    """
    moved, fixed = check_points(source, 'source'), check_points(target, 'target')
    tree = cKDTree(fixed.numpy())
    motion = torch.eye(4, dtype=torch.float64)
    paired, nearest, fitness, rmse = _closest_pairs(moved, tree, max_distance)
    for _ in range(max_iterations):
        if not paired.any():
            break
        step = _fit(moved[paired], fixed[nearest], with_scale=False)
        moved, motion = transform_points(step, moved), step @ motion
        before = fitness, rmse
        paired, nearest, fitness, rmse = _closest_pairs(moved, tree, max_distance)
        if abs(before[0] - fitness) < tolerance and abs(before[1] - rmse) < tolerance:
            break
    return motion


def is_degenerate(points: Tensor) -> bool:
    """Whether points (N, 3), float64, leave a rotation open: all in one place or on one line."""
    centred = points - points.mean(0)
    first, second, _ = torch.linalg.svdvals(centred.T @ centred).tolist()
    rounding = 64 * torch.finfo(points.dtype).eps * float(points.abs().max())
    return len(points) < 3 or first <= len(points) * rounding**2 or second <= DEGENERATE_RANK * first


def check_points(points: Tensor, name: str) -> Tensor:
    """The points (N, 3) in float64 on the CPU.

    Raises:
        ValueError: if there is none, the shape is wrong or a value is not finite.
    """
    if points.ndim != 2 or points.shape[-1] != 3 or not len(points):
        raise ValueError(f'`{name}` must have shape (N, 3) with N > 0, got {tuple(points.shape)}')
    wrong = int((~points.isfinite().all(-1)).sum())
    if wrong:
        raise ValueError(f'`{name}` must be finite; {wrong} of {len(points)} points are not')
    return points.detach().double().cpu()


def _fit(source: Tensor, target: Tensor, *, with_scale: bool) -> Tensor:
    if torch.equal(source, target):
        return torch.eye(4, dtype=torch.float64)
    return register_points(source, target, source.new_ones(len(source)), with_scale=with_scale)[0]


def _closest_pairs(points: Tensor, tree: cKDTree, max_distance: float) -> tuple[Tensor, Tensor, float, float]:
    """Which points (N,) have a near partner, its index for those, their share, and the rms of the distances."""
    distance, index = tree.query(points.numpy(), distance_upper_bound=max_distance)
    paired = np.isfinite(distance)
    rmse = float(np.sqrt(np.mean(distance[paired] ** 2))) if paired.any() else 0.0
    return torch.from_numpy(paired), torch.from_numpy(index[paired]), float(paired.mean()), rmse
