"""Focal lengths of cameras that are known by their point maps only."""

from __future__ import annotations

import torch
from torch import Tensor

from .geometry import pixel_grid

SMALLEST_DISTANCE = 1e-8


def focal_from_points(local_points: Tensor, *, valid: Tensor | None = None, iterations: int = 10) -> Tensor:
    """Focal lengths (...), pixels, for which point maps (..., H, W, 3) in the camera frame project onto their pixels.

    One focal length per view for both axes, the principal point at (W / 2, H / 2) with pixel (0, 0) at the origin. The
    sum of distances on the image is minimised by re-weighted least squares (Weiszfeld 1937), which bears outliers.

    Args:
        local_points: OpenCV axes; points with z = 0 or values that are not finite do not count.
        valid: (..., H, W), bool; the pixels that count, all by default.
        iterations: re-weightings.

    Returns:
        Where no positive focal length fits, the longer side of the image.

    Raises:
        ValueError: if the shapes do not fit each other.
    """
    if local_points.ndim < 3 or local_points.shape[-1] != 3:
        raise ValueError(f'`local_points` must have shape (..., H, W, 3), got {tuple(local_points.shape)}')
    height, width = local_points.shape[-3:-1]
    if valid is not None and valid.shape != local_points.shape[:-1]:
        raise ValueError(
            f'`valid` must have shape {tuple(local_points.shape[:-1])} beside the points, got {tuple(valid.shape)}'
        )
    centre = local_points.new_tensor([width / 2, height / 2])
    pixels = pixel_grid(height, width, device=local_points.device).to(local_points.dtype) - centre
    rays = local_points[..., :2] / local_points[..., 2:]
    usable = rays.isfinite().all(-1, keepdim=True)
    if valid is not None:
        usable = usable & valid[..., None]
    rays = torch.where(usable, rays, 0)
    ray_pixel, ray_ray = (rays * pixels).sum(-1), rays.square().sum(-1)

    def solve(weights: Tensor | float) -> Tensor:
        length = (weights * ray_ray).sum((-2, -1))
        focal = (weights * ray_pixel).sum((-2, -1)) / torch.where(length > 0, length, 1)
        return torch.where(focal > 0, focal, max(height, width))

    focal = solve(1.0)
    for _ in range(iterations):
        distance = torch.linalg.vector_norm(pixels - focal[..., None, None, None] * rays, dim=-1)
        focal = solve(1 / distance.clamp_min(SMALLEST_DISTANCE))
    return focal


def pinhole_intrinsics(focal: Tensor, size: tuple[int, int]) -> Tensor:
    """Intrinsics (..., 3, 3) of focal lengths (...), pixels, with the principal point (W / 2, H / 2) of size (H, W)."""
    height, width = size
    zero, one = torch.zeros_like(focal), torch.ones_like(focal)
    entries = [focal, zero, one * width / 2, zero, focal, one * height / 2, zero, zero, one]
    return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))
