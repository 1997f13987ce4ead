"""Rotary position embedding of tokens on an image grid (Su et al. 2021, split over rows and columns as in CroCo)."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


class RotaryTable(NamedTuple):
    """Rotation of every token; both (..., L, head_dim), float32. The sign of the rotation is in `sin`."""

    cos: Tensor
    sin: Tensor


def rotary_table(positions: Tensor, head_dim: int, *, base: float = 100.0, frequency_scale: float = 1.0) -> RotaryTable:
    """Table for integer positions (..., L, 2) as (row, column).

    The first half of the head dimension turns with the row, the second with the column. In a half of size D channel j
    pairs with channel j + D / 2 and turns by position * frequency_scale * base ** (-2 j / D).

    Raises:
        ValueError: if `head_dim` is no multiple of 4.
    """
    if head_dim % 4:
        raise ValueError(
            f'the rotary embedding needs a head dimension that is a multiple of 4, got {head_dim}; '
            'change the number of heads or the width'
        )
    half = head_dim // 2
    exponents = torch.arange(0, half, 2, dtype=torch.float32, device=positions.device) / half
    angles = positions[..., None].to(torch.float32) * (frequency_scale / base**exponents)
    cos, sin = angles.cos(), angles.sin()
    return RotaryTable(
        cos=torch.stack([cos, cos], dim=-2).flatten(-3),
        sin=torch.stack([-sin, sin], dim=-2).flatten(-3),
    )


def rotate(x: Tensor, table: RotaryTable) -> Tensor:
    """Turn queries or keys (..., L, head_dim): (a, b) -> (a cos - b sin, b cos + a sin)."""
    quarter = x.shape[-1] // 4
    swapped = x.unflatten(-1, (2, 2, quarter)).flip(-2).flatten(-3)
    return (x * table.cos).addcmul_(swapped, table.sin)  # in place: one tensor less


def grid_positions(height: int, width: int, *, device: torch.device | str | None = None) -> Tensor:
    """Positions (height * width, 2) as (row, column), row by row, from (0, 0)."""
    rows, columns = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing='ij'
    )
    return torch.stack([rows, columns], dim=-1).flatten(0, 1)


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # a table first made in inference mode could not be used in training later
def frame_rotary_table(
    grid: tuple[int, int],
    special_tokens: int,
    head_dim: int,
    base: float,
    device: torch.device,
    frequency_scale: float = 1.0,
) -> RotaryTable:
    """Table of one frame, kept per size.

    Special tokens come first, all at (0, 0), and then the patches start from (1, 1); without them from (0, 0).
    """
    patches = grid_positions(*grid, device=device) + (1 if special_tokens else 0)
    positions = torch.cat([patches.new_zeros(special_tokens, 2), patches])
    return rotary_table(positions, head_dim, base=base, frequency_scale=frequency_scale)
