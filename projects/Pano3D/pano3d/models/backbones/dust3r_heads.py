"""DUSt3R's dense heads: a DPT without norms or position fields, and MASt3R's descriptors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pano3d.models.layers import Mlp, PyramidFusion, run_block

IMAGES_PER_CHUNK = 8
UPSAMPLING = 16
"""Pixels per token that the fusion and the output convolutions are built for."""


class PyramidHead(nn.Module):
    """Token maps of four depths to one map at image resolution; state-dict names are the official ones.

    Args:
        encoder_dim: channels of the encoder's tokens, which make the finest level.
        decoder_dim: channels of the decoder's tokens, which make the other three.
        features: channels of the fusion; the output convolutions have half of them.
        hidden: channels before the last convolution.
        level_channels: channels of the four levels, fine to coarse.
        out_channels: channels of the result.
        checkpoint_activations: recompute each chunk of images in the backward pass.
    """

    def __init__(
        self,
        *,
        encoder_dim: int,
        decoder_dim: int,
        features: int,
        hidden: int,
        level_channels: tuple[int, int, int, int],
        out_channels: int,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        self.checkpoint_activations = checkpoint_activations
        first, second, third, fourth = level_channels
        self.act_postprocess = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv2d(encoder_dim, first, kernel_size=1),
                    nn.ConvTranspose2d(first, first, kernel_size=4, stride=4),
                ),
                nn.Sequential(
                    nn.Conv2d(decoder_dim, second, kernel_size=1),
                    nn.ConvTranspose2d(second, second, kernel_size=2, stride=2),
                ),
                nn.Sequential(nn.Conv2d(decoder_dim, third, kernel_size=1)),
                nn.Sequential(
                    nn.Conv2d(decoder_dim, fourth, kernel_size=1),
                    nn.Conv2d(fourth, fourth, kernel_size=3, stride=2, padding=1),
                ),
            ]
        )
        self.scratch = PyramidFusion(channels=level_channels, features=features, rectified_skip=False, crop=True)
        self.head = nn.Sequential(
            nn.Conv2d(features, features // 2, kernel_size=3, padding=1),
            nn.Upsample(scale_factor=2, mode='bilinear', align_corners=True),
            nn.Conv2d(features // 2, hidden, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, out_channels, kernel_size=1),
        )

    def forward(self, layers: list[Tensor], grid: tuple[int, int]) -> Tensor:
        """Encoder tokens and three decoder states (N, h * w, C) of N images -> (N, 16 h, 16 w, out_channels)."""
        chunks = zip(*(layer.split(IMAGES_PER_CHUNK) for layer in layers), strict=True)
        recompute = self.checkpoint_activations and self.training
        return torch.cat([run_block(self._forward_chunk, grid, *chunk, recompute=recompute) for chunk in chunks])

    def _forward_chunk(self, grid: tuple[int, int], *layers: Tensor) -> Tensor:
        x = self.scratch(self._token_pyramid(layers, grid))
        for layer in self.head:  # one by one, so that each map is freed after its use
            x = layer(x)
        return x.permute(0, 2, 3, 1)

    def _token_pyramid(self, layers: Sequence[Tensor], grid: tuple[int, int]) -> list[Tensor]:
        """Maps of four sizes, fine to coarse."""
        maps = (tokens.transpose(1, 2).unflatten(2, grid) for tokens in layers)
        return [project(level) for project, level in zip(self.act_postprocess, maps, strict=True)]


class DescriptorHead(Mlp):
    """MASt3R's local features: an MLP on the encoder's and the decoder's token, which holds the pixels of its patch.

    Args:
        encoder_dim: channels of the encoder's tokens.
        decoder_dim: channels of the decoder's tokens.
        descriptor_dim: channels of a descriptor; one more is its confidence.
        patch_size: pixels per patch side.
    """

    def __init__(self, *, encoder_dim: int, decoder_dim: int, descriptor_dim: int, patch_size: int) -> None:
        dim = encoder_dim + decoder_dim
        super().__init__(dim=dim, hidden_dim=4 * dim, out_dim=(descriptor_dim + 1) * patch_size**2)
        self.patch_size = patch_size

    def forward(self, encoded: Tensor, decoded: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Tokens (N, h * w, C) -> unit descriptors (N, H, W, D) and their confidence (N, H, W), above 0."""
        features = super().forward(torch.cat([encoded, decoded], dim=-1))
        maps = F.pixel_shuffle(features.transpose(1, 2).unflatten(2, grid), self.patch_size).permute(0, 2, 3, 1)
        return F.normalize(maps[..., :-1], dim=-1), maps[..., -1].exp()
