"""A camera as 9 numbers (VGGT, Wang et al. 2025).

Translation (3), quaternion (x, y, z, w), vertical, then horizontal field of view. The pose is world-to-camera (OpenCV
axes); the fields of view are in radians; the principal point is fixed at (W / 2, H / 2), in pixels with integer
centres, as in the official code.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .rotation import matrix_to_quaternion, quaternion_to_matrix

SMALLEST_VIEW = 1e-6
"""Fields of view below this (radians) are read as this, so that every focal length is finite."""


def encode_cameras(world_to_camera: Tensor, intrinsics: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Encoding (..., 9) of poses (..., 4, 4) or (..., 3, 4) and intrinsics (..., 3, 3) of images of size (H, W)."""
    height, width = image_size
    focal_x, focal_y = intrinsics[..., 0, 0], intrinsics[..., 1, 1]
    view = torch.stack([torch.atan(height / 2 / focal_y), torch.atan(width / 2 / focal_x)], dim=-1) * 2
    quaternion = matrix_to_quaternion(world_to_camera[..., :3, :3])
    return torch.cat([world_to_camera[..., :3, 3], quaternion, view], dim=-1)


def decode_cameras(encoding: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """World-to-camera (..., 4, 4) and intrinsics (..., 3, 3) of encodings (..., 9) for images of size (H, W).

    Raises:
        ValueError: if the last dimension is not 9.
    """
    if encoding.shape[-1] != 9:
        raise ValueError(f'`encoding` must have shape (..., 9), got {tuple(encoding.shape)}')
    height, width = image_size
    translation, quaternion, view = encoding.split([3, 4, 2], dim=-1)
    upper = torch.cat([quaternion_to_matrix(quaternion), translation[..., None]], dim=-1)
    bottom = encoding.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*encoding.shape[:-1], 1, 4)
    focal_y, focal_x = (encoding.new_tensor([height, width]) / 2 / torch.tan(view.clamp_min(SMALLEST_VIEW) / 2)).unbind(
        -1
    )
    zero, one = torch.zeros_like(focal_x), torch.ones_like(focal_x)
    entries = [focal_x, zero, one * (width / 2), zero, focal_y, one * (height / 2), zero, zero, one]
    return torch.cat([upper, bottom], dim=-2), torch.stack(entries, dim=-1).unflatten(-1, (3, 3))
