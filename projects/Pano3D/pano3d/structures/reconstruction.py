"""The geometry of one scene, predicted or ground truth."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from pano3d.functional.geometry import transform_points, unproject


@dataclass(frozen=True)
class Reconstruction:
    """Point maps and cameras of V views in one frame; every field may carry leading batch dimensions.

    OpenCV axes (x right, y down, z forward); lengths in metres where the source is metric, else in scene units;
    pixel (0, 0) is the centre of the top-left pixel.

    Args:
        points: (..., V, H, W, 3), in the scene frame.
        local_points: (..., V, H, W, 3), in each view's camera frame; `local_points[..., 2]` is the depth.
        confidence: (..., V, H, W), larger is surer, unit of the network; ones for ground truth.
        camera_to_world: (..., V, 4, 4), row-major.
        intrinsics: (..., V, 3, 3), pixels.
        valid: (..., V, H, W), bool; False where there is no measurement (ground truth) or no finite point.

    Raises:
        ValueError: if the shapes do not fit each other.
    """

    points: Tensor
    local_points: Tensor
    confidence: Tensor
    camera_to_world: Tensor
    intrinsics: Tensor
    valid: Tensor

    def __post_init__(self) -> None:
        pixels, views = self.valid.shape, self.valid.shape[:-2]
        expected = {
            'points': (*pixels, 3),
            'local_points': (*pixels, 3),
            'confidence': tuple(pixels),
            'camera_to_world': (*views, 4, 4),
            'intrinsics': (*views, 3, 3),
        }
        for name, shape in expected.items():
            found = tuple(getattr(self, name).shape)
            if found != shape:
                raise ValueError(f'`{name}` must have shape {shape} beside `valid` {tuple(pixels)}, got {found}')
        if self.valid.dtype != torch.bool:
            raise ValueError(f'`valid` must be bool, got {self.valid.dtype}')

    @classmethod
    def from_depth(cls, depth: Tensor, intrinsics: Tensor, camera_to_world: Tensor) -> Reconstruction:
        """Ground truth from depth (..., V, H, W), metres, 0 where unknown, and its cameras."""
        valid = torch.isfinite(depth) & (depth > 0)
        depth = torch.where(valid, depth, torch.zeros_like(depth))
        local_points = unproject(depth, intrinsics)
        return cls(
            points=transform_points(camera_to_world[..., None, :, :], local_points),
            local_points=local_points,
            confidence=torch.ones_like(depth),
            camera_to_world=camera_to_world,
            intrinsics=intrinsics,
            valid=valid,
        )

    @property
    def depth(self) -> Tensor:
        """z in the camera frame, (..., V, H, W)."""
        return self.local_points[..., 2]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Reconstruction:
        return Reconstruction(
            **{f.name: getattr(self, f.name).to(device, non_blocking=non_blocking) for f in fields(self)}
        )

    def detach(self) -> Reconstruction:
        return Reconstruction(**{f.name: getattr(self, f.name).detach() for f in fields(self)})

    def __getitem__(self, index: Any) -> Reconstruction:
        """The same leading elements (scenes of a batch, or views) of every field."""
        return Reconstruction(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    @staticmethod
    def stack(items: list[Reconstruction]) -> Reconstruction:
        """A batch of reconstructions of equal shape along a new first dimension."""
        return Reconstruction(
            **{f.name: torch.stack([getattr(item, f.name) for item in items]) for f in fields(Reconstruction)}
        )
