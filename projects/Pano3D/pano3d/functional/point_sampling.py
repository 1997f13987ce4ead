"""Masks compared at sampled points instead of at every pixel (PointRend, arXiv 1912.08193; Mask2Former, section 3.3).

Points are drawn from the labelled pixels alone: none is spent on void, on a view without labels or on the padding
around a view that is smaller than its canvas, and all that are drawn count.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LabelledPixels:
    """Where the points of B scenes may lie.

    Args:
        places: (L,), the labelled pixels in the flattened maps (B, V, H, W), ascending.
        counts: (B, V), how many of them each view has.
        size: (V, H, W).
    """

    places: Tensor
    counts: Tensor
    size: tuple[int, int, int]


@dataclass(frozen=True)
class Points:
    """N sets of P points: a pixel and a place within it.

    Args:
        pixel: (N, P), place in the flattened maps (B, V, H, W).
        offset: (N, P, 2), x and y in [0, 1] from the pixel's left and top border, in pixels.
        size: (V, H, W).
    """

    pixel: Tensor
    offset: Tensor
    size: tuple[int, int, int]

    def __getitem__(self, sets: Tensor) -> Points:
        """Some of the sets, any number of times."""
        return Points(self.pixel[sets], self.offset[sets], self.size)

    def take(self, chosen: Tensor) -> Points:
        """Of each set the points `chosen` (N, P')."""
        offset = self.offset.gather(1, chosen[..., None].expand(-1, -1, 2))
        return Points(self.pixel.gather(1, chosen), offset, self.size)

    def and_also(self, others: Points) -> Points:
        """Each set with further points."""
        pixel, offset = torch.cat([self.pixel, others.pixel], 1), torch.cat([self.offset, others.offset], 1)
        return Points(pixel, offset, self.size)


def labelled_pixels(index: Tensor) -> LabelledPixels:
    """The pixels of maps (B, V, H, W) that are not negative."""
    known = index >= 0
    _, views, height, width = index.shape
    return LabelledPixels(known.flatten().nonzero()[:, 0], known.flatten(2).sum(-1), (views, height, width))


def draw_points(pixels: LabelledPixels, scene: Tensor, num_points: int, *, per_view: bool) -> Points:
    """Points spread evenly over the labelled pixels of a scene.

    Args:
        pixels: where points may lie; at least one pixel. A scene without any gets points of other scenes.
        scene: (N,), to which scene each set belongs.
        num_points: P, points per set.
        per_view: the same number for every view that has labels (point p lies in the p-th of them, counted round),
            instead of the same number for equal areas.
    """
    counts = pixels.counts
    before = counts.flatten().cumsum(0).view_as(counts) - counts
    if per_view:
        turn = torch.arange(num_points, device=scene.device) % num_labelled_views(pixels)[scene, None]
        view = (counts > 0).int().argsort(dim=1, descending=True, stable=True)[scene].gather(1, turn)
        start, count = before[scene].gather(1, view), counts[scene].gather(1, view)
    else:
        start, count = before[scene, :1], counts[scene].sum(1, keepdim=True)
    rank = start + torch.randint(1 << 62, (len(scene), num_points), device=scene.device) % count.clamp(min=1)
    pixel = pixels.places[rank.clamp(max=len(pixels.places) - 1)]
    return Points(pixel, torch.rand(*pixel.shape, 2, device=scene.device), pixels.size)


def num_labelled_views(pixels: LabelledPixels) -> Tensor:
    """Views with labels per scene, (B,), but at least 1."""
    return (pixels.counts > 0).sum(1).clamp(min=1)


def most_doubtful(confidence: Tensor, count: int, num_groups: Tensor | None = None) -> Tensor:
    """The candidates of least confidence, equally many of each group.

    Args:
        confidence: (N, C), of candidates dealt out to their groups in turn: candidate c is in group c % num_groups.
        count: how many are chosen, at most C.
        num_groups: (N,); None: all are of one group.

    Returns:
        Indices (N, count), dealt out to the groups in the same way.
    """
    if num_groups is None:
        return confidence.topk(count, largest=False, sorted=False).indices
    candidates, num_groups = confidence.shape[1], num_groups[:, None]
    order = confidence.argsort(dim=1)
    order = order.gather(1, (order % num_groups).argsort(dim=1, stable=True))  # group by group
    place = torch.arange(count, device=confidence.device)
    group = place % num_groups
    start = group * (candidates // num_groups) + group.minimum(candidates % num_groups)
    return order.gather(1, start + place // num_groups)


def sample_all(masks: Tensor, points: Points, extents: Tensor | None = None) -> Tensor:
    """Bilinear values of every mask of B scenes at the points of its scene.

    The canvas (h, w) of the masks and that of the points are the same area in other units. Neither the outside of a
    canvas nor what lies beside a view on it is mixed in: the border cells of a view extend outwards.

    Args:
        masks: (B, K, V, h, w).
        points: B sets of P points.
        extents: (B, V, 2), rows and columns of each view's own part of the masks; None where all is its own.

    Returns:
        (B, K, P), float32.
    """
    cells, weights = _cells(points, (masks.shape[-2], masks.shape[-1]), extents)
    flat = masks.flatten(2)
    values = flat.gather(2, cells.flatten(1)[:, None].expand(-1, flat.shape[1], -1)).unflatten(2, cells.shape[1:])
    return (values.float() * weights[:, None]).sum(2)


def sample_own(masks: Tensor, scene: Tensor, query: Tensor, points: Points, extents: Tensor | None = None) -> Tensor:
    """Bilinear values of N of the masks, `masks[scene, query]`, each at its own points: (N, P).

    The masks are not copied. `points` are N sets, the rest as in `sample_all`.
    """
    grid = (masks.shape[-2], masks.shape[-1])
    cells, weights = _cells(points, grid, None if extents is None else extents[scene])
    cells += ((scene * masks.shape[1] + query) * masks[0, 0].numel())[:, None, None]
    values = masks.flatten().index_select(0, cells.flatten()).view(cells.shape)
    return (values.float() * weights).sum(1)


def sample_index(index: Tensor, points: Points) -> Tensor:
    """The entry of integer maps (B, V, H, W) in which each point lies: (N, P)."""
    return index.flatten()[points.pixel]


def _cells(points: Points, grid: tuple[int, int], extents: Tensor | None) -> tuple[Tensor, Tensor]:
    """The four cells of maps (V, h, w) around each point, (N, 4, P) in the flattened maps, and their weights."""
    views, height, width = points.size
    view = points.pixel // (height * width) % views
    if extents is None:
        last_row, last_column = (torch.tensor(size - 1, device=view.device) for size in grid)
    else:
        last_row, last_column = (own.gather(1, view) - 1 for own in extents.unbind(-1))
    x = points.pixel % width + points.offset[..., 0]
    y = points.pixel // width % height + points.offset[..., 1]
    x = (x * (grid[1] / width) - 0.5).clamp(min=0).minimum(last_column)
    y = (y * (grid[0] / height) - 0.5).clamp(min=0).minimum(last_row)
    left, top = x.long(), y.long()
    rows = torch.stack([top, (top + 1).minimum(last_row)], 1)
    columns = torch.stack([left, (left + 1).minimum(last_column)], 1)
    line = (view[:, None] * grid[0] + rows) * grid[1]
    across, down = x - left, y - top
    weights = torch.stack([1 - down, down], 1)[:, :, None] * torch.stack([1 - across, across], 1)[:, None]
    return (line[:, :, None] + columns[:, None]).flatten(1, 2), weights.flatten(1, 2)
