"""What ground-truth geometry is measured as: depth images and cameras."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .reconstruction import Reconstruction


@dataclass(frozen=True)
class DepthViews:
    """Depth and cameras of V views, from which `lift` makes a `Reconstruction` of more than seven times their size.

    Args:
        depth: (V, H, W), z in metres, 0 where unknown.
        intrinsics: (V, 3, 3), pixels; pixel (0, 0) is the centre of the top-left pixel.
        camera_to_world: (V, 4, 4), row-major, OpenCV axes, metres.

    Raises:
        ValueError: if the shapes do not fit each other.
    """

    depth: Tensor
    intrinsics: Tensor
    camera_to_world: Tensor

    def __post_init__(self) -> None:
        views = tuple(self.depth.shape[:1])
        if self.depth.ndim != 3:
            raise ValueError(f'`depth` must have shape (V, H, W), got {tuple(self.depth.shape)}')
        for name, shape in (('intrinsics', (*views, 3, 3)), ('camera_to_world', (*views, 4, 4))):
            found = tuple(getattr(self, name).shape)
            if found != shape:
                raise ValueError(f'`{name}` must have shape {shape} beside `depth`, got {found}')

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> DepthViews:
        return DepthViews(**{f.name: getattr(self, f.name).to(device, non_blocking=non_blocking) for f in fields(self)})

    def lift(self) -> Reconstruction:
        """The points of all pixels, computed where the depth lies."""
        return Reconstruction.from_depth(self.depth, self.intrinsics, self.camera_to_world)
