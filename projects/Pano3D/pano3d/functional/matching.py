"""Bipartite matching between predicted and true segments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F


def binary_cross_entropy_cost(logits: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy of each predicted mask with each true mask.

    Args:
        logits: (..., K, P), mask logits at P points.
        target: (..., M, P), 0 or 1, of the type of `logits`.

    Returns:
        (..., K, M).
    """
    # BCE(x, t) = softplus(x) - x t, so the pairwise sum is one row term and one product.
    return (F.softplus(logits).sum(-1)[..., None] - logits @ target.mT) / logits.shape[-1]


def dice_cost(logits: Tensor, target: Tensor) -> Tensor:
    """1 - (2 |p t| + 1) / (|p| + |t| + 1) of each predicted with each true mask; arguments and result as above."""
    probability = logits.sigmoid()
    overlap = probability @ target.mT
    return 1 - (2 * overlap + 1) / (probability.sum(-1)[..., None] + target.sum(-1)[..., None, :] + 1)


def assign(cost: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """The one-to-one assignments of least total cost (Hungarian) of N problems, with one copy to the host.

    Args:
        cost: (N, K, M), finite; problem n has the first `counts[n]` columns only.
        counts: N numbers, each at most M.

    Returns:
        Problem, row and column of every assigned pair, problem by problem, min(K, counts[n]) each; int64, on the device
        of `cost`.

    Raises:
        FloatingPointError: if a cost is not finite: the network has diverged.
    """
    on_host = cost.detach().float().cpu()
    if not torch.isfinite(on_host).all():
        raise FloatingPointError('the matching cost is not finite: the network has diverged (lower the learning rate)')
    pairs = [
        np.stack(linear_sum_assignment(problem[:, :count]))
        for problem, count in zip(on_host.numpy(), counts, strict=True)
    ]
    which = np.repeat(np.arange(len(pairs)), [pair.shape[1] for pair in pairs])
    assigned = np.concatenate([which[None], np.concatenate(pairs, axis=1)]).astype(np.int64)
    problems, rows, columns = torch.from_numpy(assigned).to(cost.device)
    return problems, rows, columns
