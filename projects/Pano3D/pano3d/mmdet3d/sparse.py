"""Sparse voxels, and what spconv needs to run on a machine without CUDA."""

from __future__ import annotations

from dataclasses import dataclass
from types import MethodType, ModuleType

import torch
from torch import Tensor, nn

from .versions import require

LARGEST_SIDE = 2**10
"""Voxels along an axis that a grid may have: a point far away must not make a grid that 32 bits cannot number."""


@dataclass(frozen=True)
class SparseVoxels:
    """The occupied voxels of B scenes.

    Args:
        indices: (N, 4), int32: scene, x, y, z; scene by scene, each from 0.
        voxel_of_point: (P,), which voxel each point is in.
        num_scenes: B.
    """

    indices: Tensor
    voxel_of_point: Tensor
    num_scenes: int

    def for_halving(self, times: int) -> Tensor:
        """Indices, moved up per scene and axis so that grids up to the highest one halve so often without a rest.

        A rest is dropped: of a small scene that may be all.
        """
        scene, cells = self.indices[:, 0].long(), self.indices[:, 1:]
        highest = cells.new_zeros(self.num_scenes, 3).scatter_reduce(0, scene[:, None].expand(-1, 3), cells, 'amax')
        return torch.cat([self.indices[:, :1], cells + (-(highest + 1) % 2**times)[scene]], dim=1)

    def mean(self, values: Tensor) -> Tensor:
        """Mean (N, C) over the points of each voxel, of values (P, C)."""
        total = values.new_zeros(len(self.indices), values.shape[1]).index_add(0, self.voxel_of_point, values)
        count = torch.bincount(self.voxel_of_point, minlength=len(self.indices))
        return total / count[:, None]

    def majority(self, labels: Tensor, num_classes: int) -> Tensor:
        """The most frequent of labels (P,) in [0, num_classes) in each voxel (N,); the smallest among equals."""
        key = self.voxel_of_point * num_classes + labels
        counts = torch.bincount(key, minlength=len(self.indices) * num_classes)
        return counts.view(-1, num_classes).argmax(1)


def voxelise(points: Tensor, scene: Tensor, *, voxel_size: float, num_scenes: int) -> SparseVoxels:
    """Sort points into voxels of one size; the grid of each scene begins at its lowest point.

    Args:
        points: (P, 3), finite, P >= 1.
        scene: (P,), int64, which scene each point is of.
        voxel_size: edge, in the unit of the points. Points further than 1024 voxels from the lowest one of their scene
            are moved there.
        num_scenes: B.

    Raises:
        ValueError: if there is no point, or the size is not positive.
    """
    if not voxel_size > 0:
        raise ValueError(f'`voxel_size` must be positive, got {voxel_size}')
    if not len(points):
        raise ValueError('`points` is empty: there are no voxels without a valid point')
    index = scene[:, None].expand(-1, 3)
    lowest = points.new_full((num_scenes, 3), torch.inf).scatter_reduce(0, index, points, 'amin')
    cells = ((points - lowest[scene]) / voxel_size).floor().clamp_max(LARGEST_SIDE - 1).long()
    number = scene
    for axis in range(3):
        number = number * LARGEST_SIDE + cells[:, axis]
    occupied, voxel_of_point = number.unique(return_inverse=True)
    columns = [
        occupied // LARGEST_SIDE**3,
        *(occupied // LARGEST_SIDE**power % LARGEST_SIDE for power in (2, 1, 0)),
    ]
    return SparseVoxels(torch.stack(columns, dim=1).int(), voxel_of_point, num_scenes)


def require_spconv() -> ModuleType:
    """`spconv.pytorch`, whose backward pass also runs without CUDA.

    The wheel for the CPU asks for the current CUDA stream there and ignores it.

    Raises:
        ImportError: if spconv is missing or of an unsupported version.
    """
    require('spconv')
    import spconv.pytorch
    from spconv.pytorch import ops

    if not torch.cuda.is_available():
        ops.get_current_stream = _no_stream
    return spconv.pytorch


def keep_weight_layout(module: nn.Module) -> None:
    """Let the sparse layers of a module load weights as they were saved.

    mmdet3d makes all sparse layers take weights without a version number for those of spconv 1, and turn them. Plain
    checkpoints have no such numbers.
    """
    from spconv.pytorch.conv import SparseConvolution

    for layer in module.modules():
        if isinstance(layer, SparseConvolution):
            layer._load_from_state_dict = MethodType(nn.Module._load_from_state_dict, layer)


def _no_stream() -> int:
    return 0
