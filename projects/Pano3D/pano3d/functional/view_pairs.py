"""Scenes of V views as pairs with the first view, for networks that see two images at a time."""

from __future__ import annotations

import torch
from torch import Tensor


def star_pairs(views: int) -> tuple[list[int], list[int]]:
    """First and second views of the 2 (V - 1) pairs of view 0 with every other one, in both directions.

    Pair k is (0, k + 1) for k < V - 1, and then come the mirrored ones in the same order: (1, 0), ..., (V - 1, 0).

    Raises:
        ValueError: if there are fewer than two views.
    """
    if views < 2:
        raise ValueError(f'a pairwise network needs two views or more per scene, got {views}')
    others = list(range(1, views))
    reference = [0] * len(others)
    return reference + others, others + reference


def scale_between(source: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """The factors (...) that bring points (..., N, 3) to the lengths of corresponding points.

    Both are seen from one camera at the origin, so each pixel votes for the ratio of its two distances; the weighted
    median of the votes bears up to half of the weight on wrong points.

    Args:
        source: (..., N, 3).
        target: (..., N, 3).
        weights: (..., N), not negative. Pairs of points that give no finite positive ratio do not count.

    Returns:
        1 where no pair counts.
    """
    ratios = torch.linalg.vector_norm(target, dim=-1) / torch.linalg.vector_norm(source, dim=-1)
    usable = ratios.isfinite() & (ratios > 0)
    ratios, order = torch.where(usable, ratios, 1).sort(dim=-1)
    share = torch.where(usable, weights, 0).double().gather(-1, order).cumsum(-1)  # thousands of pixels
    middle = torch.searchsorted(share, share[..., -1:] / 2).clamp_max(ratios.shape[-1] - 1)
    median = ratios.gather(-1, middle).squeeze(-1)
    return torch.where(share[..., -1] > 0, median, 1)
