"""Point maps as networks put them out and as they are trained: exponential lengths, scale, price of confidence.

DUSt3R (Wang et al., CVPR 2024) introduced these; MASt3R and MUSt3R keep them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST = 1e-8


def expand_points(raw: Tensor) -> Tensor:
    """Vectors (..., 3) with length n -> the same directions with length exp(n) - 1."""
    length = torch.linalg.vector_norm(raw, dim=-1, keepdim=True)
    return raw / length.clamp_min(SMALLEST) * length.expm1()


def compress_points(points: Tensor) -> Tensor:
    """The inverse of `expand_points`: length n -> log(1 + n)."""
    length = torch.linalg.vector_norm(points, dim=-1, keepdim=True)
    return points / length.clamp_min(SMALLEST) * length.log1p()


def mean_distance(points: Tensor, valid: Tensor) -> Tensor:
    """Mean distance (B,) of the valid points (B, ..., 3) of each element to the origin, at least 1e-8.

    What is not valid may hold anything, also NaN; without valid points the distance is 1e-8.
    """
    distance = torch.linalg.vector_norm(torch.where(valid[..., None], points, 0), dim=-1).flatten(1)
    return (distance.sum(1) / (valid.flatten(1).sum(1) + SMALLEST)).clamp_min(SMALLEST)


def point_distance(points: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Euclidean distances (N,) of the N valid points of two maps (..., 3); `valid` has their shape without the 3."""
    return torch.linalg.vector_norm(points[valid] - target[valid], dim=-1)


def weigh_by_confidence(distance: Tensor, confidence: Tensor, *, alpha: float) -> Tensor:
    """Mean of c * d - alpha * log c over distances (N,) with confidences (N,) > 0.

    Zero for N = 0, and still a function of both, so that no parameter counts as unused.
    """
    return (distance * confidence - alpha * confidence.log()).sum() / max(distance.numel(), 1)


def normalise_lengths(
    points: Tensor, target: Tensor, valid: Tensor, *, keep_target: bool = False
) -> tuple[Tensor, Tensor]:
    """Divide the points (B, ..., 3) of each element by their mean distance to the origin, and the target by its own.

    Args:
        points: predicted.
        target: ground truth, (B, ..., 3).
        valid: (B, ...).
        keep_target: leave the target as it is, as the official test loss does.
    """
    shape = (-1, *[1] * (points.ndim - 1))
    points = points / mean_distance(points, valid).view(shape)
    return points, target if keep_target else target / mean_distance(target, valid).view(shape)


def align_medians(points: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Take out of points (B, ..., 3) what the official shift and scale invariant test loss forgives.

    The median depth is subtracted from the predicted and from the true depths; the prediction then gets the spread of
    the target: the median distance to the median point. Its own spread, after division by its mean distance to the
    origin, is taken as 1e-3 at least and 1e3 at most.

    Returns:
        Prediction and target at the scale of the target.
    """
    points, target = normalise_lengths(points, target, valid, keep_target=True)
    points, target = (maps - _median_depth(maps, valid) for maps in (points, target))
    factor = _median_spread(target, valid) / _median_spread(points, valid).clamp(1e-3, 1e3)
    return points * factor, target


def _median_depth(points: Tensor, valid: Tensor) -> Tensor:
    """(0, 0, median of z) of each element, (B, 1, ..., 1, 3)."""
    depth = torch.where(valid, points[..., 2], torch.nan).flatten(1).nanmedian(dim=1).values
    return F.pad(depth[:, None], (2, 0)).view(-1, *[1] * (points.ndim - 2), 3)


def _median_spread(points: Tensor, valid: Tensor) -> Tensor:
    """Median distance to the median point of each element, (B, 1, ..., 1)."""
    known = torch.where(valid[..., None], points, torch.nan).flatten(1, -2)
    distance = torch.linalg.vector_norm(known - known.nanmedian(dim=1, keepdim=True).values, dim=-1)
    return distance.nanmedian(dim=1).values.view(-1, *[1] * (points.ndim - 1))
