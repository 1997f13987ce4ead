"""The DINOv2 encoder with register tokens (Oquab et al. 2023, Darcet et al. 2023)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checkpointing import run_block
from .transformer import Block


class PatchEmbed(nn.Module):
    """Non-overlapping patches (N, in_channels, H, W) -> (N, h * w, C), row by row."""

    def __init__(self, *, dim: int, patch_size: int, in_channels: int = 3) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class DinoEncoder(nn.Module):
    """Vision transformer over single images; state-dict names are DINOv2's.

    Args:
        dim: channels.
        depth: blocks.
        num_heads: attention heads.
        patch_size: pixels per patch side.
        position_grid: side of the square table of learned positions.
        register_tokens: register tokens, inserted after the class token without a position.
        mlp_ratio: hidden over outer width of the MLPs.
        layer_scale: initial value of LayerScale.
        in_channels: channels of the images.
        mask_token: keep the name `mask_token` in the state dict; it is never used.
        checkpoint_activations: recompute the blocks in the backward pass.
    """

    def __init__(
        self,
        *,
        dim: int,
        depth: int,
        num_heads: int,
        patch_size: int,
        position_grid: int,
        register_tokens: int = 4,
        mlp_ratio: float = 4.0,
        layer_scale: float = 1.0,
        in_channels: int = 3,
        mask_token: bool = True,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.position_grid = position_grid
        self.prefix_tokens = 1 + register_tokens
        self.checkpoint_activations = checkpoint_activations
        self.patch_embed = PatchEmbed(dim=dim, patch_size=patch_size, in_channels=in_channels)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + position_grid**2, dim))
        self.register_tokens = nn.Parameter(torch.zeros(1, register_tokens, dim))
        if mask_token:  # a buffer, so that no parameter stays without a gradient
            self.register_buffer('mask_token', torch.zeros(1, dim))
        self.blocks = nn.ModuleList(
            Block(dim=dim, num_heads=num_heads, mlp_ratio=mlp_ratio, norm_eps=1e-6, layer_scale=layer_scale)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        for parameter in (self.cls_token, self.pos_embed, self.register_tokens):
            nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (N, in_channels, H, W) -> normed tokens (N, L, C): class, registers, patches row by row."""
        grid = images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size
        count = images.shape[0]
        patches = self.patch_embed(images) + self.patch_positions(grid)
        class_token = (self.cls_token + self.pos_embed[:, :1]).expand(count, -1, -1)
        x = torch.cat([class_token, self.register_tokens.expand(count, -1, -1), patches], dim=1)
        for block in self.blocks:
            x = run_block(block, x, recompute=self.checkpoint_activations and self.training)
        return self.norm(x)

    def patch_positions(self, grid: tuple[int, int]) -> Tensor:
        """Learned positions (1, h * w, C), resized to the grid (h, w)."""
        side = self.position_grid
        positions = self.pos_embed[:, 1:]
        if grid == (side, side):
            return positions
        table = positions.unflatten(1, (side, side)).permute(0, 3, 1, 2)
        resized = F.interpolate(table.float(), size=grid, mode='bicubic', antialias=True, align_corners=False)
        return resized.flatten(2).transpose(1, 2).to(positions.dtype)
