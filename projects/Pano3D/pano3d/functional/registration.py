"""Align two sets of corresponding points."""

from __future__ import annotations

import torch
from torch import Tensor

DEGENERATE_SPREAD = 1e-12
"""Points whose variance is below this share of their squared distance to the origin are one point."""


def register_points(
    source: Tensor, target: Tensor, weights: Tensor, *, with_scale: bool = False
) -> tuple[Tensor, Tensor]:
    """The motion that brings `source` closest to `target` in weighted squared distance (Umeyama 1991).

    Runs in float64, since poses of large scenes lose millimetres in the sums otherwise. Pairs with a value that is not
    finite, or without a positive weight, do not count. Without a pair, or with all points in one place, the rotation
    is the identity and the scale is 1.

    Args:
        source: (..., N, 3).
        target: (..., N, 3), corresponding points.
        weights: (..., N), not negative.
        with_scale: also find a common scale; else it is 1.

    Returns:
        The transform (..., 4, 4), [scale * rotation, translation] on column vectors, and the scale (...), in the type
        of `source`. Reflections are excluded.

    Raises:
        ValueError: if the shapes do not fit each other.
    """
    if source.shape != target.shape or source.shape[-1:] != (3,) or weights.shape != source.shape[:-1]:
        raise ValueError(
            '`source` and `target` must have shape (..., N, 3) and `weights` (..., N), got '
            f'{tuple(source.shape)}, {tuple(target.shape)} and {tuple(weights.shape)}'
        )
    usable = source.isfinite().all(-1) & target.isfinite().all(-1) & (weights > 0)
    weight = torch.where(usable, weights, 0).double()[..., None]
    weight = weight / weight.sum(-2, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    moving, fixed = (torch.where(usable[..., None], points, 0).double() for points in (source, target))
    from_centre, to_centre = ((weight * points).sum(-2, keepdim=True) for points in (moving, fixed))
    moving, fixed = moving - from_centre, fixed - to_centre

    spread = (weight * moving.square()).sum((-2, -1))
    degenerate = spread <= DEGENERATE_SPREAD * from_centre.square().sum((-2, -1))
    covariance = (weight * fixed).transpose(-1, -2) @ moving
    covariance = torch.where(degenerate[..., None, None], torch.eye(3).to(covariance), covariance)
    left, singular, right = torch.linalg.svd(covariance)
    signs = torch.ones_like(singular)
    signs[..., 2] = torch.linalg.det(left @ right).sign()
    rotation = (left * signs[..., None, :]) @ right
    scale = torch.ones_like(spread)
    if with_scale:
        scale = torch.where(degenerate, scale, (singular * signs).sum(-1) / torch.where(degenerate, 1, spread))

    linear = scale[..., None, None] * rotation
    translation = to_centre.transpose(-1, -2) - linear @ from_centre.transpose(-1, -2)
    transform = torch.cat([linear, translation], dim=-1)
    bottom = transform.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*transform.shape[:-2], 1, 4)
    return torch.cat([transform, bottom], dim=-2).to(source.dtype), scale.to(source.dtype)
