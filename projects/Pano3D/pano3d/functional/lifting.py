"""Carry what pixels say to the vertices of a mesh, by the nearest pixels in space.

Source: the protocol of UNITE, as this project reads it: the k nearest pixels of each vertex vote with weights that fall
with their distance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.spatial import cKDTree
from torch import Tensor

# Nearer pixels do not weigh more: one that coincides with the vertex decides, and no weight is infinite.
SMALLEST_DISTANCE = 1e-6
VERTICES_AT_ONCE = 16384


@dataclass(frozen=True)
class PixelNeighbours:
    """The pixels next to each of M vertices.

    Args:
        pixel: (M, k) int64, number of the pixel among all V * H * W.
        weight: (M, k) float64, positive, of sum 1.
    """

    pixel: Tensor
    weight: Tensor


def pixel_neighbours(points: Tensor, valid: Tensor, vertices: Tensor, *, num_neighbours: int = 5) -> PixelNeighbours:
    """The `num_neighbours` valid pixels nearest to each vertex, weighted by the inverse of their distance.

    Every vertex has neighbours, however far; all valid pixels if there are fewer than `num_neighbours`.

    Args:
        points: (V, H, W, 3), where the pixels are in space.
        valid: (V, H, W) bool, which of them are anywhere.
        vertices: (M, 3), in the same frame and unit; metres.
        num_neighbours: k.

    Raises:
        ValueError: if shapes do not fit, no pixel is valid, or a valid point or a vertex is not finite.
    """
    if points.shape != (*valid.shape, 3) or vertices.ndim != 2 or vertices.shape[1] != 3:
        raise ValueError(
            '`points` must have shape (V, H, W, 3), `valid` (V, H, W) and `vertices` (M, 3), '
            f'got {tuple(points.shape)}, {tuple(valid.shape)} and {tuple(vertices.shape)}'
        )
    pixels = valid.flatten().nonzero()[:, 0]
    cloud = points.reshape(-1, 3)[pixels]
    if not len(cloud):
        raise ValueError(f'none of the {valid.numel()} pixels is valid: there is nothing to carry to the vertices')
    for name, tensor in (('points', cloud), ('vertices', vertices)):
        if not tensor.isfinite().all():
            wrong = int((~tensor.isfinite()).any(1).sum())
            raise ValueError(f'`{name}` must be finite where valid; {wrong} of {len(tensor)} are not')
    nearest = range(1, min(num_neighbours, len(cloud)) + 1)
    tree = cKDTree(cloud.cpu().double().numpy())
    distance, index = (torch.from_numpy(a) for a in tree.query(vertices.cpu().double().numpy(), k=list(nearest)))
    weight = 1 / distance.clamp_min(SMALLEST_DISTANCE)
    device = points.device
    return PixelNeighbours(pixels[index.to(device)], (weight / weight.sum(1, keepdim=True)).to(device))


def carry_values(values: Tensor, neighbours: PixelNeighbours) -> Tensor:
    """Weighted mean of `values` (V, C, H, W) over the neighbours of each vertex, (M, C) in their type or float32.

    Half precision is kept where it is and left behind in the sums.

    Takes the vertices in pieces, and only the pixels that are neighbours, so that the memory is that of the result.
    """
    views, channels, height, width = values.shape
    by_pixel = values.movedim(1, -1)
    carried = values.new_empty(len(neighbours.pixel), channels, dtype=torch.promote_types(values.dtype, torch.float32))
    for start in range(0, len(carried), VERTICES_AT_ONCE):
        piece = slice(start, start + VERTICES_AT_ONCE)
        view, row, column = torch.unravel_index(neighbours.pixel[piece], (views, height, width))
        weight = neighbours.weight[piece, :, None].to(carried.dtype)
        carried[piece] = (by_pixel[view, row, column] * weight).sum(1)
    return carried


def carry_masks(index: Tensor, score: Tensor, neighbours: PixelNeighbours) -> Tensor:
    """The mask that wins each vertex, (M,) int64; -1 where most of the weight is on pixels without a mask.

    Otherwise the same as `carry_values` of K masks that are `score` on their pixels and 0 elsewhere, then arg max.

    Args:
        index: (V, H, W) integer, the mask that holds the pixel, -1 = none.
        score: (K,) positive.
        neighbours: of M vertices.
    """
    flat = index.flatten()
    winner = torch.full((len(neighbours.pixel),), -1, dtype=torch.int64, device=index.device)
    if not len(score):
        return winner
    value = torch.cat([score.double(), score.new_ones(1).double()])  # the last entry is that of no mask, -1
    for start in range(0, len(winner), VERTICES_AT_ONCE):
        piece = slice(start, start + VERTICES_AT_ONCE)
        mask = flat[neighbours.pixel[piece]].long()
        votes = value.new_zeros(len(mask), len(value))
        votes.scatter_add_(1, mask % len(value), neighbours.weight[piece] * value[mask])
        winner[piece] = torch.where(votes[:, -1] > 0.5, -1, votes[:, :-1].argmax(1))
    return winner
