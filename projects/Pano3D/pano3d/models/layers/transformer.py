"""Pre-norm transformer blocks in the naming that the pretrained reconstruction networks share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .rope import RotaryTable, rotate


class Attention(nn.Module):
    """Multi-head self-attention of tokens (N, L, C).

    Args:
        dim: channels C.
        num_heads: heads; must divide C.
        qk_norm: LayerNorm (eps 1e-5) over the head dimension of queries and keys, before the rotation.

    Raises:
        ValueError: if the heads do not divide the channels.
    """

    def __init__(self, *, dim: int, num_heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f'{num_heads} heads do not divide {dim} channels')
        self.num_heads = num_heads
        head_dim = dim // num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(head_dim) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(head_dim) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rope: RotaryTable | None = None) -> Tensor:
        """Attend over L; `rope` turns queries and keys."""
        return self.proj(self._attend(x, rope))

    def _attend(self, x: Tensor, rope: RotaryTable | None) -> Tensor:
        """Apart from the projection, so that queries, keys and values are freed before it."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query = _turn(self.q_norm(query), rope)
        key = _turn(self.k_norm(key), rope)
        # norm and rotation run in float32 under autocast
        attended = F.scaled_dot_product_attention(query.to(value.dtype), key.to(value.dtype), value)
        return attended.transpose(1, 2).flatten(2)


def _turn(x: Tensor, rope: RotaryTable | None) -> Tensor:
    return x if rope is None else rotate(x, rope)


class Mlp(nn.Module):
    """Linear, exact GELU, linear.

    Without gradients the GELU overwrites its input, which is the largest tensor of a transformer block.
    """

    def __init__(self, *, dim: int, hidden_dim: int, out_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1(x)
        return self.fc2(F.gelu(hidden) if hidden.requires_grad else torch.ops.aten.gelu_(hidden))


class LayerScale(nn.Module):
    """A learned factor per channel."""

    def __init__(self, *, dim: int, value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), value))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Self-attention and MLP, each with pre-norm, residual and optional LayerScale.

    Args:
        dim: channels.
        num_heads: attention heads.
        mlp_ratio: hidden over outer width of the MLP.
        norm_eps: eps of the two block norms; the networks differ here.
        qk_norm: see `Attention`.
        layer_scale: initial value of LayerScale; None leaves it out.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        norm_eps: float,
        qk_norm: bool = False,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = Attention(dim=dim, num_heads=num_heads, qk_norm=qk_norm)
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(dim=dim, value=layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim=dim, hidden_dim=int(dim * mlp_ratio), out_dim=dim)
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(dim=dim, value=layer_scale)

    def forward(self, x: Tensor, rope: RotaryTable | None = None) -> Tensor:
        """Tokens (N, L, C) to tokens of the same shape."""
        x = x + self.ls1(self.attn(self.norm1(x), rope))
        return x + self.ls2(self.mlp(self.norm2(x)))
