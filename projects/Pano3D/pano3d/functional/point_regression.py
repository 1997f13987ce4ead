"""Point maps as networks put them out and as they are trained: exponential lengths, scale, price of confidence.

DUSt3R (Wang et al., CVPR 2024) introduced these; MASt3R and MUSt3R keep them.
"""

from __future__ import annotations

import torch
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
