"""Semantic scores of two point clouds on a common voxel grid: right means the right class in the right place.

Follows the voxel score of IGGT, whose code has no evaluator for it: origin of the grid, label of a voxel and treatment
of void are this project's reading.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .confusion import SemanticCounts, semantic_counts

MICROMETRES = 1e6


def voxel_counts(
    *,
    predicted_points: Tensor,
    predicted_category: Tensor,
    gt_points: Tensor,
    gt_category: Tensor,
    num_classes: int,
    voxel_size: float = 0.1,
    min_points: int = 1,
    ignore_gt_void_voxels: bool = False,
) -> SemanticCounts:
    """Count voxels per class; read them with `class_iou(counts, count_gt_void=True)`.

    Points of class void are removed first. A voxel has the class of most of its points, among equals the one of the
    smallest index. In the counts an empty voxel stands as void: `labelled` are the voxels of the ground truth,
    `predicted_on_void` the predicted ones where the ground truth is empty.

    Coordinates are rounded to whole micrometres, so that the round-off of an alignment carries no point over a face.

    Args:
        predicted_points: (N, 3), metres, in the frame of the ground truth.
        predicted_category: (N,) integer, -1 = void.
        gt_points: (M, 3), metres.
        gt_category: (M,) integer, -1 = void.
        num_classes: C.
        voxel_size: edge, metres; the grid has a corner at the origin.
        min_points: voxels with fewer points are empty, in both clouds (a filter by density).
        ignore_gt_void_voxels: leave out the voxels whose ground truth points are all void.

    Raises:
        ValueError: if shapes do not fit, a point is not finite, a category is outside the label space, or `voxel_size`
            is not positive.
    """
    if not voxel_size * MICROMETRES >= 1:
        raise ValueError(f'`voxel_size` must be at least a micrometre, got {voxel_size} m')
    clouds = {'predicted': (predicted_points, predicted_category), 'gt': (gt_points, gt_category)}
    for name, (points, category) in clouds.items():
        _check_cloud(points, category, num_classes, name)
    cells = [_cells(points, voxel_size) for points, _ in clouds.values()]
    voxel = _number(torch.cat(cells))
    num_voxels = int(voxel.max()) + 1 if voxel.numel() else 0
    in_prediction, in_gt = voxel[: len(predicted_points)], voxel[len(predicted_points) :]

    predicted = _majority(in_prediction, predicted_category, num_voxels, num_classes, min_points)
    gt = _majority(in_gt, gt_category, num_voxels, num_classes, min_points)
    if ignore_gt_void_voxels:
        filled, labelled = (torch.bincount(v, minlength=num_voxels) > 0 for v in (in_gt, in_gt[gt_category >= 0]))
        kept = ~filled | labelled
        predicted, gt = predicted[kept], gt[kept]
    return semantic_counts(predicted=predicted, gt=gt, num_classes=num_classes)


def occupancy_iou(counts: SemanticCounts) -> Tensor:
    """Voxels filled in both over voxels filled in either, () float64, whatever their class; nan if there is none."""
    return counts.predicted.sum().double() / (counts.labelled.sum() + counts.predicted_on_void.sum())


def _cells(points: Tensor, voxel_size: float) -> Tensor:
    """Indices (N, 3) int64 of the voxels that hold the points (N, 3)."""
    edge = voxel_size * MICROMETRES
    whole = round(edge)
    edge = whole if math.isclose(edge, whole, rel_tol=1e-12) else edge  # 0.0157 m becomes 15699.999999999998
    return ((points.double() * MICROMETRES).round() / edge).floor().long()


def _number(cells: Tensor) -> Tensor:
    """One number per distinct row of (N, 3), (N,) from 0 without gaps; axis by axis, which is faster than by rows."""
    number = cells[:, 0].unique(return_inverse=True)[1]
    for axis in (1, 2):
        column = cells[:, axis].unique(return_inverse=True)[1]
        number = (number * (len(column) + 1) + column).unique(return_inverse=True)[1]
    return number


def _majority(voxel: Tensor, category: Tensor, num_voxels: int, num_classes: int, min_points: int) -> Tensor:
    """Most frequent class in each voxel, (num_voxels,) int64; -1 where fewer than `min_points` points have a class."""
    labelled = category >= 0
    key = voxel[labelled] * num_classes + category[labelled].long()
    pairs, counts = key.unique(return_counts=True)
    order = counts.argsort(stable=True, descending=True)
    order = order[(pairs[order] // num_classes).argsort(stable=True)]
    owner = pairs[order] // num_classes
    first = torch.ones_like(owner, dtype=torch.bool)
    first[1:] = owner[1:] != owner[:-1]
    label = torch.full((num_voxels,), -1, dtype=torch.int64, device=voxel.device)
    label[owner[first]] = pairs[order][first] % num_classes
    dense = torch.bincount(voxel[labelled], minlength=num_voxels) >= min_points
    return torch.where(dense, label, -1)


def _check_cloud(points: Tensor, category: Tensor, num_classes: int, name: str) -> None:
    if points.ndim != 2 or points.shape[1] != 3 or category.shape != points.shape[:1]:
        raise ValueError(
            f'`{name}_points` must have shape (N, 3) and `{name}_category` (N,), '
            f'got {tuple(points.shape)} and {tuple(category.shape)}'
        )
    if not points.isfinite().all():
        wrong = int((~points.isfinite()).any(1).sum())
        raise ValueError(f'`{name}_points` must be finite; {wrong} of {len(points)} points are not')
    if category.numel() and not -1 <= category.min() <= category.max() < num_classes:
        raise ValueError(
            f'`{name}_category` must lie in [-1, {num_classes - 1}] for {num_classes} classes, '
            f'got [{category.min()}, {category.max()}]'
        )
