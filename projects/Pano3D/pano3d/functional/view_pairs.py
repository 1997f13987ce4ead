"""Scenes of V views as pairs with the first view, for networks that see two images at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from .registration import register_points


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


def join_star(points: Tensor, confidence: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One scene from the pairs of `star_pairs`, in the frame of view 0.

    Each pair (0, i) has its own unit. It is brought to that of the pair whose map of view 0 is surest, by the median
    ratio of the points of view 0 in the two. View 0 then gets the mean of its maps, weighted with the confidence, which
    evens out their noise; view i gets its points from the pair (0, i). The similarity that brings the points of view i
    in its own camera, from the pair (i, 0), onto them is its pose, and the unit of its local points. Both alignments
    are weighted with the logarithm of the confidences.

    Args:
        points: (B, P, 2, H, W, 3), both images of each pair in the frame of the pair's first camera.
        confidence: (B, P, 2, H, W), above 1.

    Returns:
        Points (B, V, H, W, 3) in the frame of view 0, points in the own camera of each view, and camera_to_world
        (B, V, 4, 4). Where there was no finite point, there is none.
    """
    pairs = points.shape[1] // 2
    surety = confidence.log().nan_to_num(0.0, posinf=0.0)
    first, others, local = points[:, :pairs, 0], points[:, :pairs, 1], points[:, pairs:, 0]  # (B, V - 1, H, W, 3)

    scene = torch.arange(len(points), device=points.device)
    surest = surety[:, :pairs, 0].mean((-2, -1)).argmax(1)
    target = first[scene, surest][:, None].expand_as(first)
    weight = (surety[:, :pairs, 0] * surety[scene, surest, 0][:, None]).sqrt()
    unit = scale_between(first.flatten(2, 3), target.flatten(2, 3), weight.flatten(2))[..., None, None, None]
    share = confidence[:, :pairs, 0] / confidence[:, :pairs, 0].sum(1, keepdim=True)
    reference = (share[..., None] * unit * first).sum(1, keepdim=True)
    others = unit * others

    weight = (surety[:, :pairs, 1] * surety[:, pairs:, 0]).sqrt().flatten(2)
    _, unit = register_points(local.flatten(2, 3), others.flatten(2, 3), weight, with_scale=True)
    local = unit[..., None, None, None] * local
    poses, _ = register_points(local.flatten(2, 3), others.flatten(2, 3), weight)  # now a rotation in any case
    identity = torch.eye(4).to(poses).expand(len(points), 1, 4, 4)
    return (
        torch.cat([reference, others], dim=1),
        torch.cat([reference, local], dim=1),
        torch.cat([identity, poses], dim=1),
    )
