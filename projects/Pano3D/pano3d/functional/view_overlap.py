"""What two views with depth have in common."""

from __future__ import annotations

import torch
from torch import Tensor

from .geometry import invert_rigid, project, transform_points, unproject


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


def pairwise_overlap(depth: Tensor, intrinsics: Tensor, camera_to_world: Tensor, *, tolerance: float = 0.05) -> Tensor:
    """How much of each view the others see, (V, V).

    Entry (i, j) is the share of the pixels of view i with known depth whose point falls on a pixel of view j that has
    that depth. It is not symmetric: a close-up is all in the overview, not the other way round. The diagonal is 1, the
    row and column of a view without depth are 0.

    Args:
        depth: (V, H, W), metres, 0 where unknown.
        intrinsics: (V, 3, 3), pixels; pixel (0, 0) is the centre of the top-left pixel.
        camera_to_world: (V, 4, 4), metres.
        tolerance: relative difference of depth that still counts as the same surface.
    """
    views = len(depth)
    points = transform_points(camera_to_world, unproject(depth, intrinsics).flatten(1, 2))
    known = depth.flatten(1) > 0
    view, position = known.nonzero(as_tuple=True)
    points = points[view, position]
    seen = depth.new_zeros(views, views)
    for j in range(views):  # all at once would hold V x V x H x W points
        visible, _ = seen_points(points, depth[j], intrinsics[j], camera_to_world[j], tolerance=tolerance)
        seen[:, j] = torch.bincount(view[visible], minlength=views).to(seen)
    return seen / known.sum(1, keepdim=True).clamp(min=1)
