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


def most_doubtful(confidence: Tensor, count: int, num_groups: Tensor) -> Tensor:
    """The candidates of least confidence, equally many of each group.

    Args:
        confidence: (N, C), of candidates dealt out to their groups in turn: candidate c is in group c % num_groups.
        count: how many are chosen, at most C.
        num_groups: (N,).

    Returns:
        Indices (N, count), dealt out to the groups in the same way.
    """
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
    start = (scene * masks.shape[1] + query) * masks[0, 0].numel()
    values = masks.flatten().index_select(0, (cells + start[:, None, None]).flatten()).view(cells.shape)
    return (values.float() * weights).sum(1)


def sample_index(index: Tensor, points: Points) -> Tensor:
    """The entry of integer maps (B, V, H, W) in which each point lies: (N, P)."""
    return index.flatten()[points.pixel]


def _cells(points: Points, grid: tuple[int, int], extents: Tensor | None) -> tuple[Tensor, Tensor]:
    """The four cells of maps (V, h, w) around each point, (N, 4, P) in the flattened maps, and their weights."""
    views, height, width = points.size
    column, row = points.pixel % width, points.pixel // width % height
    view = points.pixel // (height * width) % views
    last = torch.tensor(grid, device=view.device).expand(*view.shape, 2) if extents is None else _own(extents, view)
    x = ((column + points.offset[..., 0]) * (grid[1] / width) - 0.5).clamp(min=0).minimum(last[..., 1] - 1)
    y = ((row + points.offset[..., 1]) * (grid[0] / height) - 0.5).clamp(min=0).minimum(last[..., 0] - 1)
    left, top = x.long(), y.long()
    right, bottom = (left + 1).minimum(last[..., 1] - 1), (top + 1).minimum(last[..., 0] - 1)
    corner = view * (grid[0] * grid[1])
    cells = [corner + line * grid[1] + place for line in (top, bottom) for place in (left, right)]
    across, down = x - left, y - top
    weights = [a * b for a in (1 - down, down) for b in (1 - across, across)]
    return torch.stack(cells, 1), torch.stack(weights, 1)


def _own(extents: Tensor, view: Tensor) -> Tensor:
    """Rows and columns (N, P, 2) of the views (N, P) from extents (N, V, 2)."""
    return extents.gather(1, view[..., None].expand(-1, -1, 2))
