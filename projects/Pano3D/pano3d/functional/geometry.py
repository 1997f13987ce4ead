"""Cameras and points: pinhole projection and rigid motion.

OpenCV axes (x right, y down, z forward); depth is z, not ray length; pixel (0, 0) is the centre of the top-left pixel;
matrices are row-major and act on column vectors.

Products are written as sums: a matrix product would run in bfloat16 under autocast, or in TF32, and round metres to
centimetres.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pixel_grid(height: int, width: int, *, device: torch.device | str | None = None) -> Tensor:
    """Pixel centres (H, W, 2) as (x, y), float32."""
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float32, device=device),
        torch.arange(width, dtype=torch.float32, device=device),
        indexing='ij',
    )
    return torch.stack([x, y], dim=-1)


def unproject(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Lift depth (..., H, W), metres, with intrinsics (..., 3, 3), pixels, to camera points (..., H, W, 3).

    Raises:
        ValueError: if the leading dimensions differ.
    """
    if depth.shape[:-2] != intrinsics.shape[:-2] or intrinsics.shape[-2:] != (3, 3):
        raise ValueError(
            '`depth` (..., H, W) and `intrinsics` (..., 3, 3) must share their leading dimensions, '
            f'got {tuple(depth.shape)} and {tuple(intrinsics.shape)}'
        )
    x, y = pixel_grid(*depth.shape[-2:], device=depth.device).to(depth.dtype).unbind(-1)
    focal_x, focal_y = intrinsics[..., 0, 0, None, None], intrinsics[..., 1, 1, None, None]
    centre_x, centre_y = intrinsics[..., 0, 2, None, None], intrinsics[..., 1, 2, None, None]
    return torch.stack([(x - centre_x) / focal_x * depth, (y - centre_y) / focal_y * depth, depth], dim=-1)


def project(points: Tensor, intrinsics: Tensor) -> Tensor:
    """Pixel coordinates (..., N, 2) as (x, y) of camera points (..., N, 3) with intrinsics (..., 3, 3).

    Points on or behind the camera plane give inf or mirrored pixels: mask by z > 0.
    """
    _check_last(points, 3, 'points')
    xy = points[..., :2] / points[..., 2:]
    focal = torch.stack([intrinsics[..., 0, 0], intrinsics[..., 1, 1]], dim=-1)
    centre = intrinsics[..., :2, 2]
    return xy * focal[..., None, :] + centre[..., None, :]


def transform_points(matrix: Tensor, points: Tensor) -> Tensor:
    """Apply matrices (..., 4, 4) to points (..., N, 3); leading dimensions broadcast."""
    _check_last(points, 3, 'points')
    x, y, z = points[..., None].unbind(-2)
    axis_x, axis_y, axis_z, origin = matrix[..., None, :3, :].unbind(-1)
    moved = torch.addcmul(origin, x, axis_x)
    moved = torch.addcmul(moved, y, axis_y)
    return torch.addcmul(moved, z, axis_z)


def invert_rigid(matrix: Tensor) -> Tensor:
    """Inverse of rigid motions (..., 4, 4): exact transpose of the rotation, no general solve."""
    rotation = matrix[..., :3, :3].transpose(-1, -2)
    translation = -_product(rotation, matrix[..., :3, 3:])
    bottom = matrix.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*matrix.shape[:-2], 1, 4)
    return torch.cat([torch.cat([rotation, translation], dim=-1), bottom], dim=-2)


def relative_to_first(camera_to_world: Tensor) -> Tensor:
    """Express cameras (..., V, 4, 4) in the frame of the first view, which becomes the identity."""
    return _product(invert_rigid(camera_to_world[..., :1, :, :]), camera_to_world)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """left @ right for small matrices (..., n, k) and (..., k, m), in their own precision."""
    return (left[..., None] * right[..., None, :, :]).sum(dim=-2)


def _check_last(tensor: Tensor, size: int, name: str) -> None:
    if tensor.shape[-1] != size:
        raise ValueError(f'`{name}` must have shape (..., {size}), got {tuple(tensor.shape)}')
