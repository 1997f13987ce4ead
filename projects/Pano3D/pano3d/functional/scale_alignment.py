"""One scale per scene that brings predicted points closest to the target in the sum of absolute differences."""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_COORDINATE = 1e-7


def align_scale(source: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """The scales (...) that minimise sum w |s * source - target| over all coordinates, exactly, without gradients.

    The sum is piecewise linear in s with its corners at the ratios target / source, so that the minimum is their
    median, weighted with w |source|. Scales are made positive.

    Args:
        source: (..., N, 3).
        target: (..., N, 3), corresponding points.
        weights: (..., N), not negative; without a positive one the scale is 1.

    Raises:
        ValueError: if the shapes do not fit each other.
    """
    if source.shape != target.shape or weights.shape != source.shape[:-1]:
        raise ValueError(
            '`source` and `target` must have shape (..., N, 3) and `weights` (..., N), got '
            f'{tuple(source.shape)}, {tuple(target.shape)} and {tuple(weights.shape)}'
        )
    source, target, weights = source.detach(), target.detach(), weights.detach()
    size = source.abs().clamp_min(SMALLEST_COORDINATE)
    ratios = target / torch.where(source < 0, -size, size)
    scale = weighted_median(ratios.flatten(-2), (weights[..., None] * size).flatten(-2)).abs()
    return torch.where((weights > 0).any(-1), scale, 1)


def weighted_median(values: Tensor, weights: Tensor) -> Tensor:
    """The smallest of the values (..., N) up to which the weights (..., N), not negative, add up to half their sum."""
    ordered, order = values.sort(-1)
    cumulated = weights.gather(-1, order).cumsum(-1)
    first = torch.searchsorted(cumulated, cumulated[..., -1:] / 2).clamp(max=values.shape[-1] - 1)
    return ordered.gather(-1, first).squeeze(-1)


def spread_over_valid(valid: Tensor, count: int) -> Tensor:
    """Indices (B, count), evenly spread over the positions where `valid` (B, N), bool, is true, in their order.

    With fewer valid positions than `count` some come several times; without any, the indices mean nothing.
    """
    rank = valid.cumsum(-1)
    available = rank[:, -1:]
    wanted = torch.arange(count, device=valid.device) * available // count + 1
    return torch.searchsorted(rank, wanted).clamp(max=valid.shape[-1] - 1)
