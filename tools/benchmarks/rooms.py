"""Seeded labels like those of rooms: walls, floor and boxes, and a prediction that is wrong in the usual ways."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pano3d.structures import VOID, LabelSpace, MaskProposals, PanopticMap

LABEL_SPACE = LabelSpace.load('scannet20')
NUM_CLASSES = LABEL_SPACE.num_classes
WALL, FLOOR = range(2)  # the two stuff classes
NUM_STUFF = 2
NUM_PARTS = 60


@dataclass(frozen=True)
class Box:
    """An object as the views show it: a rectangle that moves from view to view. Lengths are shares of the picture."""

    category: int
    instance: int
    centre: NDArray[np.float64]  # (V, 2) row, column
    size: NDArray[np.float64]  # (2,)

    def inside(self, view: int, shape: tuple[int, int]) -> tuple[slice, slice]:
        low = (self.centre[view] - self.size / 2) * shape
        high = low + self.size * shape
        rows, columns = (slice(max(int(a), 0), max(int(b), 0)) for a, b in zip(low, high, strict=True))
        return rows, columns


def random_room(
    views: int, height: int, width: int, *, seed: int, num_boxes: int = 15
) -> tuple[PanopticMap, PanopticMap]:
    """Ground truth and prediction (V, H, W), int64.

    The prediction shifts and scales boxes, misses, doubles and splits some, confuses classes, renumbers all, and leaves
    a patch of every view void, as the ground truth does elsewhere.
    """
    random = np.random.default_rng(seed)
    boxes = [_random_box(random, views, instance) for instance in range(1, num_boxes + 1)]
    gt = _paint(boxes, (views, height, width), random)
    predicted = _paint(list(_perturb(boxes, random)), (views, height, width), random)
    return gt, predicted


def random_points(num_points: int, num_proposals: int, *, seed: int) -> tuple[PanopticMap, MaskProposals]:
    """Ground truth (N,) of 60 parts, of these 40 instances, the others stuff or void; and masks (K, N) near the parts.

    Masks overlap, some have another class than their part. The points are in no order.
    """
    random = np.random.default_rng(seed)
    bounds = np.sort(random.choice(np.arange(1, num_points), size=NUM_PARTS - 1, replace=False))
    starts, ends = np.r_[0, bounds], np.r_[bounds, num_points]
    things = random.integers(NUM_STUFF, NUM_CLASSES, 40)
    others = np.r_[random.integers(0, NUM_STUFF, 15), np.full(5, VOID)]
    category = random.permutation(np.concatenate([things, others]))
    part = np.repeat(np.arange(NUM_PARTS), ends - starts)
    gt = category[part], np.where(category[part] >= NUM_STUFF, 1 + part, 0)

    masks = np.zeros((num_proposals, num_points), bool)
    labels = random.integers(NUM_STUFF, NUM_CLASSES, num_proposals)
    for k, target in enumerate(random.integers(0, NUM_PARTS, num_proposals)):
        size = ends[target] - starts[target]
        low, high = np.array([starts[target], ends[target]]) + (random.normal(0, 0.15, 2) * size).astype(int)
        masks[k, max(low, 0) : max(high, 0)] = True
        if category[target] >= NUM_STUFF and random.random() < 0.8:
            labels[k] = category[target]
    scores = random.permutation(num_proposals) / num_proposals
    order = random.permutation(num_points)
    proposals = MaskProposals(
        *(torch.from_numpy(array) for array in (np.ascontiguousarray(masks[:, order]), labels, scores))
    )
    return PanopticMap(*(torch.from_numpy(array[order]) for array in gt)), proposals


def without_overlap(proposals: MaskProposals) -> MaskProposals:
    """Every point stays in the first of its masks."""
    masks = proposals.masks
    return MaskProposals(masks & (masks.cumsum(0) == 1), proposals.category, proposals.score)


def _random_box(random: np.random.Generator, views: int, instance: int) -> Box:
    start, way = random.uniform(0, 1, 2), random.normal(0, 0.3, 2)
    centre = start + np.linspace(-0.5, 0.5, views)[:, None] * way
    return Box(int(random.integers(NUM_STUFF, NUM_CLASSES)), instance, centre, random.uniform(0.1, 0.4, 2))


def _perturb(boxes: list[Box], random: np.random.Generator) -> Iterator[Box]:
    numbers = iter(random.permutation(np.arange(1, 4 * len(boxes))).tolist())
    for box in boxes:
        kind = random.choice(['shift', 'miss', 'confuse', 'split', 'double'], p=[0.6, 0.1, 0.1, 0.1, 0.1])
        centre = box.centre + random.normal(0, 0.02, box.centre.shape)
        size = box.size * random.uniform(0.9, 1.1, 2)
        if kind == 'miss':
            continue
        category = int(random.integers(NUM_STUFF, NUM_CLASSES)) if kind == 'confuse' else box.category
        yield Box(category, next(numbers), centre, size)
        if kind == 'split':
            yield Box(category, next(numbers), centre + np.array([0, size[1] / 4]), size * np.array([1, 0.5]))
        if kind == 'double':
            yield Box(category, next(numbers), random.uniform(0, 1, centre.shape), size)


def _paint(boxes: list[Box], shape: tuple[int, int, int], random: np.random.Generator) -> PanopticMap:
    views, height, width = shape
    category = np.full(shape, WALL, np.int64)
    instance = np.zeros(shape, np.int64)
    for view in range(views):
        category[view, int(random.uniform(0.5, 0.7) * height) :] = FLOOR
        for box in boxes:
            inside = box.inside(view, (height, width))
            category[view][inside], instance[view][inside] = box.category, box.instance
        row, column = (int(random.uniform(0, 0.8) * length) for length in (height, width))
        void = view, slice(row, row + height // 8), slice(column, column + width // 5)
        category[void], instance[void] = VOID, 0
    return PanopticMap(torch.from_numpy(category), torch.from_numpy(instance))
