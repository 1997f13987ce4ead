"""What two views with depth have in common."""

from __future__ import annotations

import torch
from torch import Tensor

from .geometry import invert_rigid, project, transform_points


def seen_points(
    points: Tensor, depth: Tensor, intrinsics: Tensor, camera_to_world: Tensor, *, tolerance: float = 0.05
) -> tuple[Tensor, Tensor]:
    """Which points (N, 3) a view sees, and which cannot be there if the view is right; two (N,) bool.

    A point is seen if it falls on a pixel whose depth is that of the point. It is contradicted if that pixel looks
    through the point at something further away. All else is hidden, out of sight, or unknown.

    Args:
        points: metres, in the frame of the poses.
        depth: (H, W), metres, 0 where unknown.
        intrinsics: (3, 3), pixels; pixel (0, 0) is the centre of the top-left pixel.
        camera_to_world: (4, 4).
        tolerance: relative difference of depth that still counts as the same surface.
    """
    height, width = depth.shape
    local = transform_points(invert_rigid(camera_to_world), points)
    pixels = project(local, intrinsics)
    inside = (local[:, 2] > 0) & (pixels > -0.5).all(-1) & (pixels < pixels.new_tensor([width, height]) - 0.5).all(-1)
    x, y = torch.where(inside[:, None], pixels, 0).round().long().unbind(-1)
    found = depth[y.clamp(0, height - 1), x.clamp(0, width - 1)]
    known = inside & (found > 0)
    ratio = local[:, 2] / torch.where(known, found, 1)
    return known & ((ratio - 1).abs() <= tolerance), known & (ratio < 1 - tolerance)
