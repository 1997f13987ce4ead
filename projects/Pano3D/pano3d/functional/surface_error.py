"""How far predicted surfaces are from the target in slope and orientation, for training."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST_DIFFERENCE = 100.0
ANGLE_RANGE = math.radians(1), math.radians(90)
ANGLE_WIDTH = math.radians(3)
SMALLEST_SINE = 1e-12


def gradient_error(prediction: Tensor, target: Tensor, valid: Tensor, *, scales: int) -> Tensor:
    """Error of the image gradients of depth maps (N, H, W) with validity (N, H, W), bool (VGGT's gradient term).

    At stride 2 ** k: the sum of |horizontal difference| and |vertical difference| of prediction - target over pairs of
    valid pixels, over the number of valid pixels; averaged over k = 0 .. scales - 1. A scalar, unit of the depth.
    """
    difference = torch.where(valid, prediction - target, 0)
    total = prediction.new_zeros(())
    for step in (2**k for k in range(scales)):
        coarse, known = difference[:, ::step, ::step], valid[:, ::step, ::step]
        columns = (coarse[:, :, 1:] - coarse[:, :, :-1]).abs().clamp(max=LARGEST_DIFFERENCE)
        rows = (coarse[:, 1:] - coarse[:, :-1]).abs().clamp(max=LARGEST_DIFFERENCE)
        columns = columns * (known[:, :, 1:] & known[:, :, :-1])
        rows = rows * (known[:, 1:] & known[:, :-1])
        total = total + (columns.sum() + rows.sum()) / known.sum().clamp_min(1)
    return total / scales


def normal_error(prediction: Tensor, target: Tensor, valid: Tensor, *, scales: int) -> Tensor:
    """Mean of 1 - cos between surface normals of point maps (N, H, W, 3) with validity (N, H, W), bool.

    Each pixel has four normals, one per pair of adjacent neighbours; one counts where the pixel and both neighbours are
    valid. Averaged over strides 2 ** k, k = 0 .. scales - 1. A scalar in [0, 2].
    """
    # what is not valid may be anything; as zeros it stays out of the gradients too
    prediction, target = (torch.where(valid[..., None], points, 0) for points in (prediction, target))
    total = prediction.new_zeros(())
    for step in (2**k for k in range(scales)):
        known = valid[:, ::step, ::step]
        predicted = neighbour_normals(prediction[:, ::step, ::step])
        expected = neighbour_normals(target[:, ::step, ::step])
        usable = neighbour_pairs_valid(known)
        error = 1 - (predicted * expected).sum(-1)
        total = total + torch.where(usable, error, 0).sum() / usable.sum().clamp_min(1)
    return total / scales


def neighbour_normals(points: Tensor) -> Tensor:
    """Unit normals (4, N, H, W, 3) of point maps (N, H, W, 3): up x left, left x down, down x right, right x up.

    Zero where the two edges are parallel; meaningless at the border, see `neighbour_pairs_valid`.
    """
    padded = F.pad(points, (0, 0, 1, 1, 1, 1))
    up, left = padded[:, :-2, 1:-1] - points, padded[:, 1:-1, :-2] - points
    down, right = padded[:, 2:, 1:-1] - points, padded[:, 1:-1, 2:] - points
    first, second = torch.stack([up, left, down, right]), torch.stack([left, down, right, up])
    return F.normalize(torch.linalg.cross(first, second), dim=-1)


def neighbour_pairs_valid(valid: Tensor) -> Tensor:
    """Where the normals of `neighbour_normals` exist: (4, N, H, W), bool."""
    padded = F.pad(valid, (1, 1, 1, 1))
    up, left = padded[:, :-2, 1:-1], padded[:, 1:-1, :-2]
    down, right = padded[:, 2:, 1:-1], padded[:, 1:-1, 2:]
    return torch.stack([up, left, down, right]) & torch.stack([left, down, right, up]) & valid


def corner_angle_error(prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Angle between surface normals of point maps (N, H, W, 3) with validity (N, H, W), bool (MoGe, Wang et al. 2025).

    Every block of 2x2 pixels has a normal at each of its corners; one counts where its three pixels are valid. Angles
    are clamped to [1, 90] degrees and pass a smooth L1 of width 3 degrees.

    Returns:
        The sum over the four corners, averaged over all blocks, over 4 max(H, W): a scalar, radians.
    """
    # what is not valid may be anything; as zeros it stays out of the gradients too
    prediction, target = (torch.where(valid[..., None], points, 0) for points in (prediction, target))
    predicted, expected = corner_normals(prediction), corner_normals(target)
    known = _block_corners(valid)
    usable = torch.stack([known[corner - 1] & known[corner] & known[(corner + 1) % 4] for corner in range(4)])
    sine = torch.linalg.vector_norm(torch.linalg.cross(predicted, expected), dim=-1)
    angle = torch.atan2(sine + SMALLEST_SINE, (predicted * expected).sum(-1)).clamp(*ANGLE_RANGE)
    error = torch.where(angle < ANGLE_WIDTH, angle.square() / (2 * ANGLE_WIDTH), angle - ANGLE_WIDTH / 2)
    return torch.where(usable, error, 0).sum(0).mean() / (4 * max(valid.shape[-2:]))


def corner_normals(points: Tensor) -> Tensor:
    """Normals (4, N, H - 1, W - 1, 3), not of unit length, at the corners of all 2x2 blocks of maps (N, H, W, 3)."""
    corners = _block_corners(points)
    return torch.linalg.cross(corners.roll(-1, 0) - corners, corners.roll(1, 0) - corners)


def _block_corners(maps: Tensor) -> Tensor:
    """The pixels of all 2x2 blocks of (N, H, W, ...), clockwise from the top left: (4, N, H - 1, W - 1, ...)."""
    return torch.stack([maps[:, :-1, :-1], maps[:, :-1, 1:], maps[:, 1:, 1:], maps[:, 1:, :-1]])


def depth_edges(depth: Tensor, *, tolerance: float) -> Tensor:
    """Where depth (N, H, W) differs within the 3x3 pixels around by more than this share of it: (N, H, W), bool."""
    highest = F.max_pool2d(depth, kernel_size=3, stride=1, padding=1)
    lowest = -F.max_pool2d(-depth, kernel_size=3, stride=1, padding=1)
    return (highest - lowest) / depth > tolerance
