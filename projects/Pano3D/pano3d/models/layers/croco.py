"""The encoder and the decoder block of CroCo v2 (Weinzaepfel et al. 2023), which DUSt3R and its successors keep."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .checkpointing import run_block
from .dinov2 import PatchEmbed
from .rope import RotaryTable, frame_rotary_table, rotate
from .transformer import Attention, Block, Mlp

NORM_EPS = 1e-6
ROPE_BASE = 100.0


class CrocoEncoder(nn.Module):
    """Vision transformer over single images of any size, with rotary positions and without special tokens.

    Args:
        dim: channels.
        depth: blocks.
        num_heads: attention heads.
        patch_size: pixels per patch side.
        mlp_ratio: hidden over outer width of the MLPs.
        frequency_scale: factor on the rotary frequencies; below 1 for images larger than those of the pretraining.
        checkpoint_activations: recompute the blocks in the backward pass.
    """

    def __init__(
        self,
        *,
        dim: int,
        depth: int,
        num_heads: int,
        patch_size: int,
        mlp_ratio: float = 4.0,
        frequency_scale: float = 1.0,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.head_dim = dim // num_heads
        self.frequency_scale = frequency_scale
        self.checkpoint_activations = checkpoint_activations
        self.patch_embed = PatchEmbed(dim=dim, patch_size=patch_size)
        self.blocks = nn.ModuleList(
            Block(dim=dim, num_heads=num_heads, mlp_ratio=mlp_ratio, norm_eps=NORM_EPS) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) -> normed patch tokens (N, h * w, C), row by row."""
        grid = images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size
        rope = frame_rotary_table(grid, 0, self.head_dim, ROPE_BASE, images.device, self.frequency_scale)
        x = self.patch_embed(images)
        for block in self.blocks:
            x = run_block(block, x, rope, recompute=self.checkpoint_activations and self.training)
        return self.norm(x)


class CrossAttention(nn.Module):
    """Multi-head attention of tokens (N, L, C) to keys and values (N, M, C) of a context.

    Args:
        dim: channels C.
        num_heads: heads; must divide C.

    Raises:
        ValueError: if the heads do not divide the channels.
    """

    def __init__(self, *, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f'{num_heads} heads do not divide {dim} channels')
        self.num_heads = num_heads
        self.projq = nn.Linear(dim, dim)
        self.projk = nn.Linear(dim, dim)
        self.projv = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def project(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, each (N, M, C), of a context (N, M, C)."""
        return self.projk(context), self.projv(context)

    def forward(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        *,
        ropes: tuple[RotaryTable, RotaryTable] | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Attend over M.

        Args:
            x: (N, L, C).
            keys: (N, M, C), from `project`.
            values: (N, M, C), from `project`.
            ropes: rotations of the queries and of the keys.
            mask: broadcastable to (N, heads, L, M); bool, False hides a key, or numbers to add to the logits.
        """
        query, key, value = (
            tokens.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for tokens in (self.projq(x), keys, values)
        )
        if ropes is not None:
            query, key = rotate(query, ropes[0]), rotate(key, ropes[1])
        attended = F.scaled_dot_product_attention(query.to(value.dtype), key.to(value.dtype), value, attn_mask=mask)
        return self.proj(attended.transpose(1, 2).flatten(2))


class DecoderBlock(nn.Module):
    """Self-attention inside a view, cross-attention to a context, MLP; each with pre-norm and residual.

    Args:
        dim: channels.
        num_heads: attention heads.
        mlp_ratio: hidden over outer width of the MLP.
    """

    def __init__(self, *, dim: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim=dim, num_heads=num_heads)
        self.norm_y = nn.LayerNorm(dim, eps=NORM_EPS)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.cross_attn = CrossAttention(dim=dim, num_heads=num_heads)
        self.norm3 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim=dim, hidden_dim=int(dim * mlp_ratio), out_dim=dim)

    def project_context(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, each (N, M, C), that `forward` reads, of the states (N, M, C) of other views."""
        return self.cross_attn.project(self.norm_y(context))

    def forward(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        rope: RotaryTable,
        *,
        cross_ropes: tuple[RotaryTable, RotaryTable] | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Tokens (N, L, C) to tokens of the same shape; `rope` turns the self-attention, the rest: `CrossAttention`."""
        x = x + self.attn(self.norm1(x), rope)
        x = x + self.cross_attn(self.norm2(x), keys, values, ropes=cross_ropes, mask=mask)
        return x + self.mlp(self.norm3(x))
