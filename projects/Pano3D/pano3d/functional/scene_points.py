"""Points of a scene in 3D, or other positions, without gradients: their scale, a choice that spreads, centres of masks.

A point that is not finite is unknown and has no influence on any other.
"""

from __future__ import annotations

import torch
from torch import Tensor


def known_points(points: Tensor, ignored: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Points (..., N, 3) with zeros in place of unknown ones, and which are known (..., N).

    Args:
        points: any values.
        ignored: (..., N) bool, further ones to leave out.
    """
    known = points.isfinite().all(-1)
    if ignored is not None:
        known = known & ~ignored
    return torch.where(known[..., None], points, 0.0), known


def scene_scale(points: Tensor, known: Tensor) -> Tensor:
    """Median distance (B,) of the known points (B, N, 3) from the origin; 1 where none is known or all lie there.

    A median, since a point map has outliers.
    """
    distance = points.norm(dim=-1).masked_fill(~known, torch.nan)
    scale = distance.nanmedian(-1).values
    return torch.where(scale > 0, scale, 1.0)


@torch.no_grad()
def choose_spread(score: Tensor, position: Tensor, count: int, *, ignored: Tensor | None = None) -> Tensor:
    """Choose `count` of N candidates that score high and lie apart, one after the other: indices (B, count).

    The next one has the largest product of its score and its distance from the nearest one chosen so far; the origin
    counts as chosen. With equal scores this is farthest-point sampling; where positions are unit vectors, the first is
    the one that scores highest. When all are taken, they are taken again in the same manner.

    Args:
        score: (B, N), >= 0.
        position: (B, N, D), finite.
        count: how many, may exceed N.
        ignored: (B, N) bool, not chosen; at least one must be left.
    """
    tiny = torch.finfo(position.dtype).tiny
    score = score / score.amax(-1, keepdim=True).clamp(min=tiny)
    position = position / position.norm(dim=-1).amax(-1).clamp(min=tiny)[:, None, None]
    nearest = position.norm(dim=-1)
    times = torch.zeros_like(nearest) if ignored is None else torch.where(ignored, torch.inf, 0.0).to(nearest)
    scenes = torch.arange(len(score), device=score.device)
    chosen = []
    for _ in range(count):
        # Scores are at most 1 and distances 2: whoever was taken before comes after all who were not.
        best = (score * nearest - 3 * times).argmax(-1)
        times[scenes, best] += 1
        nearest = torch.minimum(nearest, (position - position[scenes, best][:, None]).norm(dim=-1))
        chosen.append(best)
    return torch.stack(chosen, dim=1)


@torch.no_grad()
def mask_centres(masks: Tensor, points: Tensor, known: Tensor, default: Tensor) -> Tensor:
    """Mean point (B, K, 3) of what masks cover, weighted by their probability where it is at least one half.

    Args:
        masks: logits (B, K, N).
        points: (B, N, 3), finite.
        known: (B, N) bool, the points that count.
        default: (B, K, 3), taken for masks without any such point.
    """
    weight = torch.where((masks >= 0) & known[:, None], masks.sigmoid(), 0.0).to(points.dtype)
    total = weight.sum(-1, keepdim=True)
    return torch.where(total > 0, weight @ points / total.clamp(min=0.5), default)


def at_patches(points: Tensor, grid: tuple[int, int]) -> Tensor:
    """Point maps (B, V, H, W, 3) at the middles of the patches of `grid` = (h, w): (B, V, h * w, 3).

    No mean over the patch, which lies on no surface where the patch shows an edge.
    """
    rows, columns = (
        torch.arange(cells, device=points.device) * size // cells + size // (2 * cells)
        for cells, size in zip(grid, points.shape[2:4], strict=True)
    )
    return points[:, :, rows[:, None], columns].flatten(2, 3)
