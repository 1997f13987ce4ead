"""Bipartite matching between predicted and true segments."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F


def binary_cross_entropy_cost(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean binary cross-entropy of each predicted mask with each true mask.

    Args:
        logits: (K, P), mask logits at P points.
        target: (M, P), 0 or 1.
        weight: (P,), 0 where the truth is unknown.

    Returns:
        (K, M).
    """
    weighted = target * weight
    # BCE(x, t) = softplus(x) - x t, so the pairwise sum is one row term and one product.
    return ((F.softplus(logits) @ weight)[:, None] - logits @ weighted.T) / weight.sum().clamp(min=1)


def dice_cost(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """1 - (2 |p t| + 1) / (|p| + |t| + 1) of each predicted with each true mask; arguments and result as above."""
    probability = logits.sigmoid() * weight
    target = target * weight
    overlap = probability @ target.T
    return 1 - (2 * overlap + 1) / (probability.sum(-1)[:, None] + target.sum(-1)[None] + 1)


def assign(cost: Tensor) -> tuple[Tensor, Tensor]:
    """The one-to-one assignment of least total cost (Hungarian).

    Args:
        cost: (K, M), finite.

    Returns:
        Row and column indices, each (min(K, M),), int64, on the device of `cost`.

    Raises:
        FloatingPointError: if a cost is not finite: the network has diverged.
    """
    if not torch.isfinite(cost).all():
        raise FloatingPointError('the matching cost is not finite: the network has diverged (lower the learning rate)')
    rows, columns = linear_sum_assignment(cost.detach().cpu().float().numpy())
    return torch.as_tensor(rows, device=cost.device), torch.as_tensor(columns, device=cost.device)
