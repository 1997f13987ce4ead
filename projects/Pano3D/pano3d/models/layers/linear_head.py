"""The plainest dense head: every patch token holds the pixels of its patch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class LinearHead(nn.Module):
    """A linear layer and a pixel shuffle; channel c of pixel (r, s) of a patch is feature (c * p + r) * p + s.

    Args:
        dim: channels of the tokens.
        out_channels: values per pixel.
        patch_size: pixels p per patch side.
    """

    def __init__(self, *, dim: int, out_channels: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Linear(dim, out_channels * patch_size**2)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (N, h * w, C), row by row on the grid (h, w) -> maps (N, h * p, w * p, out_channels)."""
        features = self.proj(tokens).transpose(1, 2).unflatten(2, grid)
        return F.pixel_shuffle(features, self.patch_size).permute(0, 2, 3, 1)
