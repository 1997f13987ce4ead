"""Instances cut into what hangs together in space."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

FARTHEST = 1 << 16


def split_components(
    instance: Tensor, points: Tensor, valid: Tensor, *, voxel_size: float, radius: int = 1, min_voxels: int = 1
) -> tuple[Tensor, Tensor]:
    """Give every part of an instance that is apart from the rest in space its own id.

    Points are put into voxels. Voxels of one instance hang together if they differ by at most `radius` along every
    axis, whatever views they are seen in. The part with most voxels keeps the id of the instance, and so do pixels
    without a point and parts that are too small.

    Args:
        instance: (...), integer ids, 0 for none.
        points: (..., 3), in the frame of the scene.
        valid: (...), bool, where there is a point.
        voxel_size: edge of a voxel in the unit of `points`. Points beyond 65536 voxels from the origin along an axis
            count as being there.
        radius: how far voxels may be apart, in voxels.
        min_voxels: the smallest part that gets an id of its own.

    Returns:
        The new ids (...), int64, and the former id of each new one, (P,): the new ones are `instance.max() + 1` and the
        following.

    Raises:
        ValueError: if a number is not positive, shapes differ, or there are too many voxels to count.
    """
    if not voxel_size > 0 or radius < 1 or min_voxels < 1:
        raise ValueError(
            '`voxel_size` must be positive, `radius` and `min_voxels` at least 1, '
            f'got {voxel_size}, {radius} and {min_voxels}'
        )
    if points.shape != (*instance.shape, 3) or valid.shape != instance.shape:
        raise ValueError(
            f'`points` and `valid` must be {(*instance.shape, 3)} and {tuple(instance.shape)} beside `instance`, '
            f'got {tuple(points.shape)} and {tuple(valid.shape)}'
        )
    seen = (instance > 0) & valid
    if not seen.any():
        return instance.long(), instance.new_zeros(0, dtype=torch.long)
    keys, strides = _voxel_keys(instance[seen].long(), points[seen], voxel_size, radius)
    runs, run_of_pixel = keys.unique_consecutive(return_inverse=True)  # neighbours mostly share their voxel
    voxels, voxel_of_run = runs.unique(return_inverse=True)
    part = torch.from_numpy(_connected(voxels, strides, radius)).to(keys.device)
    part_of_pixel = part[voxel_of_run][run_of_pixel]
    former = torch.zeros(int(part.max()) + 1, dtype=torch.long, device=keys.device)
    former[part_of_pixel] = instance[seen].long()
    apart = _secondary(former, torch.bincount(part)) & (torch.bincount(part) >= min_voxels)
    current = former.clone()
    current[apart] = instance.max().long() + torch.arange(1, int(apart.sum()) + 1, device=keys.device)
    split = instance.long().clone()
    split[seen] = current[part_of_pixel]
    return split, former[apart]


def _voxel_keys(
    instance: Tensor, points: Tensor, voxel_size: float, radius: int
) -> tuple[Tensor, tuple[int, int, int]]:
    """One number per instance and voxel, and what a step along x, y and z adds to it.

    The grid has room for `radius` steps in every direction, so that no step leads to another row or instance.
    """
    voxel = (points / voxel_size).floor().clamp(-FARTHEST, FARTHEST).long()
    low, high = voxel.amin(0), voxel.amax(0)
    _, number = instance.unique(return_inverse=True)
    x, y, z = (high - low + 1 + 2 * radius).tolist()
    if x * y * z * (int(number.max()) + 1) >= 1 << 63:
        raise ValueError(f'voxels of {voxel_size} make a grid of {x} x {y} x {z}; use larger ones')
    strides = (y * z, z, 1)
    return (voxel - low + radius) @ voxel.new_tensor(strides) + number * (x * y * z), strides


def _connected(voxels: Tensor, strides: tuple[int, int, int], radius: int) -> np.ndarray:
    """The part of each voxel (N,), for ascending keys."""
    starts, ends = [], []
    for step in product(range(-radius, radius + 1), repeat=3):
        difference = sum(s * stride for s, stride in zip(step, strides, strict=True))
        if difference <= 0:
            continue
        end = torch.searchsorted(voxels, voxels + difference).clamp(max=len(voxels) - 1)
        start = (voxels[end] == voxels + difference).nonzero()[:, 0]
        starts.append(start)
        ends.append(end[start])
    edges = torch.cat(starts).cpu().numpy(), torch.cat(ends).cpu().numpy()
    graph = coo_matrix((np.ones(len(edges[0]), bool), edges), shape=(len(voxels), len(voxels)))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _secondary(former: Tensor, size: Tensor) -> Tensor:
    """Which parts are not the largest of their instance; of equal ones the first is."""
    order = size.argsort(descending=True, stable=True)
    order = order[former[order].argsort(stable=True)]
    first = torch.ones_like(former, dtype=torch.bool)
    first[1:] = former[order][1:] != former[order][:-1]
    secondary = torch.ones_like(first)
    secondary[order[first]] = False
    return secondary
