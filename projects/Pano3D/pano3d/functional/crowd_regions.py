"""Ground truth segments that stand for several objects, marked by categories of their own."""

from __future__ import annotations

import torch
from torch import Tensor


def mark_crowds(
    gt_category: Tensor, gt_instance: Tensor, gt_crowd: Tensor, *, num_classes: int, stacked: bool
) -> Tensor:
    """Categories (...) in which a crowd of class c is C + c if it excuses predictions, and 2 C if it does not.

    Of several crowds of one class in one image the one with the largest id excuses: panopticapi keeps one per class.

    Args:
        gt_category: (...) integer, in [-1, C).
        gt_instance: (...) integer, >= 0.
        gt_crowd: (...) bool, true on all elements of such segments; on void it means nothing.
        num_classes: C.
        stacked: every entry along the first dimension is an image of its own.

    Raises:
        ValueError: if shapes differ, `gt_crowd` is not bool or a category is outside the label space.
    """
    if gt_crowd.dtype != torch.bool or gt_crowd.shape != gt_category.shape or gt_instance.shape != gt_category.shape:
        raise ValueError(
            f'`gt_crowd` must be bool, of the shape of `gt_category`, {tuple(gt_category.shape)}, and of '
            f'`gt_instance`, {tuple(gt_instance.shape)}, got {gt_crowd.dtype} {tuple(gt_crowd.shape)}'
        )
    marked = gt_category.long()
    if marked.numel() and not -1 <= marked.min() <= marked.max() < num_classes:
        raise ValueError(
            f'`gt_category` must lie in [-1, {num_classes - 1}] for {num_classes} classes, '
            f'got [{marked.min()}, {marked.max()}]'
        )
    place = (gt_crowd & (marked >= 0)).nonzero(as_tuple=True)
    category, instance = marked[place], gt_instance[place].long()
    group = place[0] * num_classes + category if stacked else category
    last = group.new_zeros(int(group.max()) + 1 if len(group) else 0).scatter_reduce(0, group, instance, 'amax')
    return marked.index_put(place, torch.where(instance == last[group], num_classes + category, 2 * num_classes))
