"""Geometry that is known beforehand and given to Pi3X beside the images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pano3d.functional.geometry import invert_rigid, pixel_grid, relative_to_first

from .base import Tokens

SMALLEST_BASELINE = 0.02
"""Camera distances, in the unit of the poses, that are not scaled up when no depth gives the scale."""


@dataclass(frozen=True)
class GeometryConditions:
    """What is known of the views of B scenes; everything is optional.

    Args:
        depth: (B, V, H, W), z in metres or any unit, 0 or NaN where unknown.
        intrinsics: (B, V, 3, 3), pixels, pixel (0, 0) at the centre of the top-left pixel; excludes `rays`.
        rays: (B, V, H, W, 3), viewing directions of any length in each camera's frame.
        camera_to_world: (B, V, 4, 4), any world frame, in the unit of the depth.
        depth_views: (B, V), bool; the views whose depth is read, all by default. The scale is the mean of all `depth`.
        ray_views: (B, V), bool; the views whose intrinsics or rays are read, all by default.
        pose_views: (B, V), bool; the views whose pose is read, all by default. One posed view alone says nothing and
            is ignored; all poses are taken relative to the first view, whether it is one of them or not.

    Raises:
        ValueError: if both intrinsics and rays are given, or a mask without what it masks.
    """

    depth: Tensor | None = None
    intrinsics: Tensor | None = None
    rays: Tensor | None = None
    camera_to_world: Tensor | None = None
    depth_views: Tensor | None = None
    ray_views: Tensor | None = None
    pose_views: Tensor | None = None

    def __post_init__(self) -> None:
        if self.intrinsics is not None and self.rays is not None:
            raise ValueError('give `intrinsics` or `rays`, not both: they say the same')
        known = {
            'depth_views': self.depth is not None,
            'ray_views': self.intrinsics is not None or self.rays is not None,
            'pose_views': self.camera_to_world is not None,
        }
        for name, has_values in known.items():
            if getattr(self, name) is not None and not has_values:
                raise ValueError(f'`{name}` says for which views something is known, but that is not given')

    def check(self, images: Tensor) -> None:
        """Refuse what does not fit images (B, V, 3, H, W).

        Raises:
            ValueError: naming the field.
        """
        views, size = tuple(images.shape[:2]), tuple(images.shape[-2:])
        shapes = {
            'depth': (*views, *size),
            'intrinsics': (*views, 3, 3),
            'rays': (*views, *size, 3),
            'camera_to_world': (*views, 4, 4),
            'depth_views': views,
            'ray_views': views,
            'pose_views': views,
        }
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is None:
                continue
            if tuple(value.shape) != shape:
                raise ValueError(f'`{name}` must have shape {shape} beside these images, got {tuple(value.shape)}')
            if name.endswith('_views') and value.dtype != torch.bool:
                raise ValueError(f'`{name}` must be bool, got {value.dtype}')
            if name in ('intrinsics', 'rays', 'camera_to_world') and not value.isfinite().all():
                raise ValueError(
                    f'`{name}` must be finite; where it is unknown put any finite value and say so in the mask of views'
                )

    def known_depth(self) -> tuple[Tensor, Tensor]:
        """Depth (B, V, H, W), 0 where unknown, over its mean, and that mean (B,); 1 without any known depth."""
        depth = torch.where(torch.isfinite(self.depth) & (self.depth > 0), self.depth, 0)
        count = (depth > 0).flatten(1).sum(1)
        mean = torch.where(count > 0, depth.flatten(1).sum(1) / count.clamp_min(1), 1)
        return depth / mean[:, None, None, None], mean

    def ray_map(self, size: tuple[int, int]) -> Tensor:
        """x / z and y / z of the viewing directions, (B, V, 2, H, W)."""
        if self.rays is not None:
            rays = self.rays[..., :2] / self.rays[..., 2:]
        else:
            pixels = pixel_grid(*size, device=self.intrinsics.device)
            focal = torch.stack([self.intrinsics[..., 0, 0], self.intrinsics[..., 1, 1]], dim=-1)
            rays = (pixels - self.intrinsics[..., None, None, :2, 2]) / focal[..., None, None, :]
        return rays.movedim(-1, 2)

    def relative_poses(self) -> tuple[Tensor, Tensor]:
        """World-to-camera motions (B, V, 4, 4) in the frame of the first view and of unit size, and the posed views.

        Lengths are over the mean known depth; without depth over the mean distance of the other cameras.
        """
        poses = relative_to_first(self.camera_to_world)
        posed = self.pose_views
        if posed is None:
            posed = torch.ones(poses.shape[:2], dtype=torch.bool, device=poses.device)
        posed = posed & (posed.sum(1, keepdim=True) > 1)
        if self.depth is not None:
            scale = self.known_depth()[1]
        else:
            distance = torch.linalg.vector_norm(poses[:, 1:, :3, 3], dim=-1)
            moved = (distance > SMALLEST_BASELINE).any(1)
            scale = torch.where(moved, distance.mean(1), 1)
        translation = poses[..., :3, 3:] / scale[:, None, None, None]
        upper = torch.cat([poses[..., :3, :3], translation], dim=-1)
        return invert_rigid(torch.cat([upper, poses[..., 3:, :]], dim=-2)), posed


@dataclass(frozen=True)
class ConditionedTokens(Tokens):
    """Monocular tokens with what Pi3X's decoder knows beside them.

    Args:
        added: (B, V, h * w, C), embedded depth and rays, or None.
        world_to_camera: (B, V, 4, 4), in the frame of the first view and of unit size, or None.
        posed: (B, V), bool; the views whose pose counts.
    """

    added: Tensor | None = None
    world_to_camera: Tensor | None = None
    posed: Tensor | None = None
