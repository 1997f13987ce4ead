"""From features of views to a volume of features."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pano3d.functional.geometry import invert_rigid, project, transform_points

from .canonical_scene import CanonicalScene

NEAREST = 1e-3
"""Points closer to the camera plane, in units of the scene, are in no image."""


def lift_features(
    features: Tensor, scene: CanonicalScene, centres: Tensor, *, sizes: Tensor, surface_margin: float | None = None
) -> tuple[Tensor, Tensor]:
    """The mean of what all views that see a voxel show at its centre.

    Args:
        features: (V, C, h, w), maps that cover their images exactly.
        scene: whose cameras see the voxels.
        centres: (N, 3), in the frame of the scene.
        sizes: (V, 2), height and width in pixels of what each view fills, from the top left of the image.
        surface_margin: leave out views in which the centre lies further than this behind the surface of the scene, in
            its units; None: views see through surfaces, as in ImVoxelNet.

    Returns:
        Features (N, C), zero where no view sees the centre, and whether one does, (N,) bool.
    """
    canvas = scene.valid.shape[1:]
    total = features.new_zeros(len(centres), features.shape[1])
    count = features.new_zeros(len(centres))
    for view, camera_to_scene in enumerate(scene.camera_to_scene):
        local = transform_points(invert_rigid(camera_to_scene), centres)
        in_front = local[:, 2] > NEAREST
        local = torch.where(in_front[:, None], local, 1.0)
        pixel = project(local, scene.intrinsics[view])
        height_width = sizes[view].to(pixel.dtype)
        seen = in_front & ((pixel >= -0.5) & (pixel <= height_width.flip(0) - 0.5)).all(-1)
        place = (pixel + 0.5) / pixel.new_tensor([canvas[1], canvas[0]]) * 2 - 1
        place = torch.where(seen[:, None], place, 0.0)[None, None]
        if surface_margin is not None:
            seen &= local[:, 2] <= _depth_at(scene, view, place) + surface_margin
        sampled = F.grid_sample(features[view : view + 1], place, padding_mode='border', align_corners=False)
        total = total + torch.where(seen[:, None], sampled[0, :, 0].T, 0.0)
        count += seen
    return total / count.clamp_min(1)[:, None], count > 0


def _depth_at(scene: CanonicalScene, view: int, place: Tensor) -> Tensor:
    """Depth (N,) of the pixel next to each place (1, 1, N, 2); infinite where it is unknown."""
    depth = transform_points(invert_rigid(scene.camera_to_scene[view]), scene.points[view].flatten(0, 1))[:, 2]
    depth = torch.where(scene.valid[view].flatten(), depth, torch.inf).view(1, 1, *scene.valid.shape[1:])
    return F.grid_sample(depth, place, mode='nearest', padding_mode='border', align_corners=False).flatten()
