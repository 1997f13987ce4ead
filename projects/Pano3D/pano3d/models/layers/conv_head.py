"""A dense head that enlarges token maps by convolutions, in the manner of MoGe (Wang et al., CVPR 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checkpointing import run_block

EXPANSION = 2
CHANNELS_PER_GROUP = 32
FRAMES_PER_CHUNK = 8

Convolution = partial(nn.Conv2d, kernel_size=3, padding=1, padding_mode='replicate')


class ResidualConvBlock(nn.Module):
    """Two normed and rectified 3x3 convolutions, wide in between, added to their input."""

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        hidden = EXPANSION * dim
        self.layers = nn.Sequential(
            nn.GroupNorm(1, dim),
            nn.ReLU(),
            Convolution(dim, hidden),
            nn.GroupNorm(hidden // CHANNELS_PER_GROUP, hidden),
            nn.ReLU(),
            Convolution(hidden, dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class ConvHead(nn.Module):
    """Tokens to a map at image resolution: stages that double the size, then bilinear resizing and output blocks.

    Every stage and the output blocks also see where on the image each of their cells lies.

    Args:
        dim: channels of the tokens.
        stage_channels: channels of the stages.
        residual_blocks: residual blocks per stage.
        output_features: channels inside the output blocks.
        out_channels: channels of each output block; their results are concatenated.
        patch_size: pixels per patch side.
        checkpoint_activations: recompute each chunk of frames in the backward pass.

    Raises:
        ValueError: if the group norms do not divide the channels.
    """

    def __init__(
        self,
        *,
        dim: int,
        stage_channels: Sequence[int],
        residual_blocks: int,
        output_features: int,
        out_channels: Sequence[int],
        patch_size: int,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        for channels in stage_channels:
            hidden = EXPANSION * channels
            if hidden < CHANNELS_PER_GROUP or hidden % (hidden // CHANNELS_PER_GROUP):
                raise ValueError(
                    f'{hidden} hidden channels of a stage of {channels} do not divide into groups of about '
                    f'{CHANNELS_PER_GROUP}; make the stages multiples of {CHANNELS_PER_GROUP // EXPANSION}'
                )
        self.patch_size = patch_size
        self.checkpoint_activations = checkpoint_activations
        self.upsample_blocks = nn.ModuleList()
        for incoming, channels in zip((dim, *stage_channels), stage_channels, strict=False):
            enlarge = nn.Sequential(
                nn.ConvTranspose2d(incoming + 2, channels, kernel_size=2, stride=2), Convolution(channels, channels)
            )
            self.upsample_blocks.append(
                nn.Sequential(enlarge, *(ResidualConvBlock(dim=channels) for _ in range(residual_blocks)))
            )
        last = (dim, *stage_channels)[-1]
        self.output_block = nn.ModuleList(
            nn.Sequential(
                Convolution(last + 2, output_features), nn.ReLU(), nn.Conv2d(output_features, channels, kernel_size=1)
            )
            for channels in out_channels
        )

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (N, h * w, C) of N frames, row by row on the grid (h, w) -> maps (N, h * p, w * p, channels)."""
        recompute = self.checkpoint_activations and self.training
        chunks = tokens.split(FRAMES_PER_CHUNK)
        return torch.cat([run_block(self._forward_chunk, chunk, grid, recompute=recompute) for chunk in chunks])

    def _forward_chunk(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        size = grid[0] * self.patch_size, grid[1] * self.patch_size
        aspect = size[1] / size[0]
        x = tokens.transpose(1, 2).unflatten(2, grid)
        for stage in self.upsample_blocks:
            x = stage(append_coordinates(x, aspect))
        x = append_coordinates(F.interpolate(x, size=size, mode='bilinear', align_corners=False), aspect)
        return torch.cat([block(x) for block in self.output_block], dim=1).permute(0, 2, 3, 1)


def append_coordinates(maps: Tensor, aspect: float) -> Tensor:
    """Maps (N, C, h, w) with two more channels: x and y of each cell, see `image_coordinates`."""
    field = image_coordinates(tuple(maps.shape[-2:]), aspect, maps.device).to(maps.dtype)
    return torch.cat([maps, field.expand(maps.shape[0], -1, -1, -1)], dim=1)


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # a field first made in inference mode could not be used in training later
def image_coordinates(grid: tuple[int, int], aspect: float, device: torch.device) -> Tensor:
    """Cell centres (2, h, w) as (x, y), float32, on a rectangle of unit half diagonal and `aspect` = width / height."""
    height, width = grid
    half_height = (1 + aspect**2) ** -0.5
    end_x, end_y = aspect * half_height * (width - 1) / width, half_height * (height - 1) / height
    x = torch.linspace(-end_x, end_x, width, device=device)
    y = torch.linspace(-end_y, end_y, height, device=device)
    return torch.stack(torch.meshgrid(x, y, indexing='xy'))
