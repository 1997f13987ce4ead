"""Fixed encodings of where a token lies in its image, or a point in space."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sine_position_encoding(
    grid: tuple[int, int], channels: int, *, temperature: float = 10000.0, device: torch.device | str | None = None
) -> Tensor:
    """Sine and cosine of the relative row and column of each cell of `grid` = (h, w); (h * w, channels), row by row.

    The first half of the channels encodes the row, the second the column; coordinates are the cell number (from 1)
    divided by the number of cells, times 2 pi (DETR, arXiv 2005.12872, as Mask2Former uses it).

    Raises:
        ValueError: if `channels` is no multiple of 4.
    """
    if channels % 4:
        raise ValueError(f'`channels` must be a multiple of 4, got {channels}')
    quarter = channels // 4
    wavelength = temperature ** (torch.arange(quarter, dtype=torch.float32, device=device) / quarter)

    def encode(cells: int) -> Tensor:
        position = torch.arange(1, cells + 1, dtype=torch.float32, device=device) / (cells + 1e-6) * 2 * math.pi
        angle = position[:, None] / wavelength
        return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)

    height, width = grid
    rows = encode(height)[:, None].expand(height, width, -1)
    columns = encode(width)[None].expand(height, width, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)


def fourier_encoding(points: Tensor, num_frequencies: int) -> Tensor:
    """Sines and cosines of each coordinate of points (..., D) at doubling frequencies; (..., 2 D num_frequencies).

    The longest wavelength is 8 units, the shortest 8 / 2 ** (num_frequencies - 1).
    """
    frequency = 2 * math.pi / 8 * 2 ** torch.arange(num_frequencies, dtype=points.dtype, device=points.device)
    angle = (points[..., None] * frequency).flatten(-2)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
