"""Boxes that occur in more than one network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Rope2D(nn.Module):
    """Rotary embedding of (row, column): the first half of a head turns with the row, the second with the column."""

    def __init__(self, base: float = 100.0) -> None:
        super().__init__()
        self.base = base
        self.tables: dict[tuple, tuple[Tensor, Tensor]] = {}

    def table(self, dim: int, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """cos and sin (length, dim) of every position along one axis."""
        key = dim, length, device
        if key not in self.tables:
            frequencies = self.base ** (-torch.arange(0, dim, 2, device=device).float() / dim)
            angles = torch.arange(length, device=device).float()[:, None] * frequencies
            angles = torch.cat([angles, angles], dim=-1)
            self.tables[key] = angles.cos(), angles.sin()
        return self.tables[key]

    def turn(self, x: Tensor, position: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        cos = F.embedding(position, cos)[:, None]
        sin = F.embedding(position, sin)[:, None]
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-second, first], dim=-1) * sin

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """Queries or keys (N, heads, L, D) at integer positions (N, L, 2)."""
        table = self.table(x.shape[-1] // 2, int(positions.max()) + 1, x.device)
        by_row, by_column = x.chunk(2, dim=-1)
        return torch.cat(
            [self.turn(by_row, positions[..., 0], *table), self.turn(by_column, positions[..., 1], *table)], dim=-1
        )


def grid_positions(count: int, height: int, width: int, device: torch.device) -> Tensor:
    """(count, height * width, 2): (row, column) of every patch, row by row, the same for all images."""
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    return torch.cartesian_prod(rows, columns).expand(count, -1, -1)


def special_positions(patches: Tensor, special_tokens: int) -> Tensor:
    """Positions with special tokens at (0, 0) in front and the patches from (1, 1)."""
    count = patches.shape[0]
    return torch.cat([patches.new_zeros(count, special_tokens, 2), patches + 1], dim=1)


class Attention(nn.Module):
    def __init__(self, dim: int, num_heads: int, rope: Rope2D | None = None, qk_norm: bool = False) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(dim // num_heads, eps=1e-5) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(dim // num_heads, eps=1e-5) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)
        self.rope = rope

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        count, length, dim = x.shape
        qkv = self.qkv(x).reshape(count, length, 3, self.num_heads, dim // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        if self.rope is not None:
            q = self.rope(q, positions)
            k = self.rope(k, positions)
        x = F.scaled_dot_product_attention(q, k, v)
        x = x.transpose(1, 2).reshape(count, length, dim)
        return self.proj(x)


class CrossAttention(nn.Module):
    def __init__(self, dim: int, num_heads: int, rope: Rope2D | None = None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.projq = nn.Linear(dim, dim)
        self.projk = nn.Linear(dim, dim)
        self.projv = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)
        self.rope = rope

    def split(self, x: Tensor) -> Tensor:
        count, length, dim = x.shape
        return x.reshape(count, length, self.num_heads, dim // self.num_heads).transpose(1, 2)

    def attend(self, query: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Tokens (N, L, C) to projected keys and values (N, M, C), without positions."""
        x = F.scaled_dot_product_attention(self.split(self.projq(query)), self.split(k), self.split(v))
        return self.proj(x.transpose(1, 2).flatten(2))

    def forward(self, query: Tensor, context: Tensor, positions: Tensor, context_positions: Tensor) -> Tensor:
        q = self.rope(self.split(self.projq(query)), positions)
        k = self.rope(self.split(self.projk(context)), context_positions)
        v = self.split(self.projv(context))
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden_dim: int, out_dim: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, out_dim or dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class LayerScale(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Self-attention and MLP, pre-norm, with residuals."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        eps: float,
        rope: Rope2D | None = None,
        qk_norm: bool = False,
        layer_scale: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, num_heads, rope, qk_norm)
        self.ls1 = LayerScale(dim) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.ls2 = LayerScale(dim) if layer_scale else nn.Identity()

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), positions))
        x = x + self.ls2(self.mlp(self.norm2(x)))
        return x


class PatchEmbed(nn.Module):
    def __init__(self, dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class DinoEncoder(nn.Module):
    """DINOv2 with registers: images (N, 3, H, W) -> normed patch tokens (N, h * w, C)."""

    def __init__(
        self,
        dim: int,
        depth: int,
        num_heads: int,
        patch_size: int,
        position_grid: int,
        register_tokens: int,
        mlp_ratio: float,
        mask_token: bool,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.position_grid = position_grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + position_grid**2, dim))
        self.register_tokens = nn.Parameter(torch.zeros(1, register_tokens, dim))
        if mask_token:
            self.mask_token = nn.Parameter(torch.zeros(1, dim))
        self.patch_embed = PatchEmbed(dim, patch_size)
        self.blocks = nn.ModuleList(Block(dim, num_heads, mlp_ratio, eps=1e-6, layer_scale=True) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def position_table(self, height: int, width: int) -> Tensor:
        side = self.position_grid
        if (height, width) == (side, side):
            return self.pos_embed
        table = self.pos_embed[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        table = F.interpolate(table, size=(height, width), mode='bicubic', antialias=True)
        return torch.cat([self.pos_embed[:, :1], table.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        count, _, height, width = images.shape
        x = self.patch_embed(images)
        x = torch.cat([self.cls_token.expand(count, -1, -1), x], dim=1)
        x = x + self.position_table(height // self.patch_size, width // self.patch_size)
        x = torch.cat([x[:, :1], self.register_tokens.expand(count, -1, -1), x[:, 1:]], dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return x[:, 1 + self.register_tokens.shape[1] :]


class ResidualConvUnit(nn.Module):
    """Two convolutions added to a skip, which an in-place ReLU rectifies if `rectified_skip`."""

    def __init__(self, features: int, rectified_skip: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)
        self.activation = nn.ReLU(inplace=rectified_skip)

    def forward(self, x: Tensor) -> Tensor:
        out = self.activation(x)
        out = self.conv1(out)
        out = self.activation(out)
        out = self.conv2(out)
        return out + x


class FeatureFusionBlock(nn.Module):
    """Add a finer level, refine, enlarge, 1x1 convolution."""

    def __init__(self, features: int, rectified_skip: bool, has_skip: bool = True) -> None:
        super().__init__()
        if has_skip:
            self.resConfUnit1 = ResidualConvUnit(features, rectified_skip)
        self.resConfUnit2 = ResidualConvUnit(features, rectified_skip)
        self.out_conv = nn.Conv2d(features, features, 1)

    def forward(self, x: Tensor, skip: Tensor | None = None, size: tuple[int, int] | None = None) -> Tensor:
        """Result of `size`, or else of twice the size."""
        if skip is not None:
            x = x + self.resConfUnit1(skip)
        x = self.resConfUnit2(x)
        size = size or (2 * x.shape[-2], 2 * x.shape[-1])
        x = F.interpolate(x, size=size, mode='bilinear', align_corners=True)
        return self.out_conv(x)


class LinearHead(nn.Module):
    """Every token holds the pixels of its patch: (N, h * w, C) -> (N, H, W, channels)."""

    def __init__(self, dim: int, channels: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Linear(dim, channels * patch_size**2)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        maps = self.proj(tokens).transpose(1, 2)
        maps = maps.reshape(tokens.shape[0], -1, height // self.patch_size, width // self.patch_size)
        return F.pixel_shuffle(maps, self.patch_size).permute(0, 2, 3, 1)


def exp_direction(xyz: Tensor) -> Tensor:
    """Direction times (exp(length) - 1)."""
    length = xyz.norm(dim=-1, keepdim=True)
    return xyz / length.clip(min=1e-8) * torch.expm1(length)
