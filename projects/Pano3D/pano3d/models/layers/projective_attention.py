"""Attention between views whose cameras are known: projective position encoding (Li et al. 2025, "PRoPE")."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pano3d.functional.geometry import invert_rigid

from .rope import RotaryTable, rotate
from .transformer import Attention, LayerScale, Mlp


class ProjectiveAttention(Attention):
    """Self-attention over all tokens of a scene that sees camera motion and the place on the image.

    The first half of every head's channels, in groups of four, is carried between the cameras: a query of view i meets
    a key or value of view j after world_to_camera_i @ camera_to_world_j, so only relative poses count. The second half
    of queries, keys and values turns with the place on the image, and the result turns back.

    Raises:
        ValueError: if a head's channels are no multiple of 8.
    """

    def __init__(self, *, dim: int, num_heads: int, qk_norm: bool = False) -> None:
        super().__init__(dim=dim, num_heads=num_heads, qk_norm=qk_norm)
        if dim % (8 * num_heads):
            raise ValueError(
                f'projective attention needs channels that are a multiple of 8 * heads, got {dim} and {num_heads}'
            )

    def attend(self, x: Tensor, world_to_camera: Tensor, rope: RotaryTable, mask: Tensor | None) -> Tensor:
        """Tokens (B, V, L, C) to tokens of the same shape.

        Args:
            x: L tokens of each view.
            world_to_camera: rigid motions (B, V, 4, 4).
            rope: rotation of the second half of a head's channels, (V * L, head_dim / 2).
            mask: bool, broadcastable to (B, heads, V * L, V * L); False hides a key.
        """
        views = x.shape[1]
        query, key, value = self.qkv(x.flatten(1, 2)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        dtype = value.dtype
        query, key = self.q_norm(query), self.k_norm(key)
        camera_to_world = invert_rigid(world_to_camera)
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 would round the poses
            query = _encode(query.float(), world_to_camera.transpose(-1, -2), rope, views)
            key, value = (_encode(tokens.float(), camera_to_world, rope, views) for tokens in (key, value))
            attended = F.scaled_dot_product_attention(query.to(dtype), key.to(dtype), value.to(dtype), attn_mask=mask)
            back = RotaryTable(rope.cos, -rope.sin)
            attended = _encode(attended.float(), world_to_camera, back, views)
        return self.proj(attended.transpose(1, 2).flatten(2).to(dtype)).unflatten(1, x.shape[1:3])


def _encode(tokens: Tensor, matrices: Tensor, rope: RotaryTable, views: int) -> Tensor:
    """Matrices (B, V, 4, 4) on the first half of tokens (B, heads, V * L, D), by fours; rotation on the second."""
    carried, turned = tokens.chunk(2, dim=-1)
    vectors = carried.unflatten(2, (views, -1)).unflatten(-1, (-1, 4)).flatten(3, 4)  # (B, heads, V, L * D / 8, 4)
    carried = (vectors @ matrices.transpose(-1, -2)[:, None]).flatten(2).view(carried.shape)
    return torch.cat([carried, rotate(turned, rope)], dim=-1)


class PoseInjection(nn.Module):
    """What known poses add to the tokens of a scene: attention between the posed views, and an MLP, without a residual.

    Args:
        dim: channels.
        num_heads: attention heads.
        mlp_ratio: hidden over outer width of the MLP.
        norm_eps: eps of the two norms.
        layer_scale: initial value of LayerScale.
    """

    def __init__(self, *, dim: int, num_heads: int, mlp_ratio: float, norm_eps: float, layer_scale: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = ProjectiveAttention(dim=dim, num_heads=num_heads, qk_norm=True)
        self.ls1 = LayerScale(dim=dim, value=layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim=dim, hidden_dim=int(dim * mlp_ratio), out_dim=dim)
        self.ls2 = LayerScale(dim=dim, value=layer_scale)

    def forward(self, x: Tensor, world_to_camera: Tensor, posed: Tensor, rope: RotaryTable) -> Tensor:
        """What to add to tokens (B, V, L, C); zero where `posed` (B, V), bool, is false. The rest as in `attend`."""
        # scenes without a posed view attend to all, since a softmax needs a key; their result is dropped
        visible = posed | ~posed.any(1, keepdim=True)
        mask = None if visible.all() else visible.repeat_interleave(x.shape[2], dim=1)[:, None, None]
        added = self.ls1(self.attn.attend(self.norm1(x), world_to_camera, rope, mask)) + self.ls2(
            self.mlp(self.norm2(x))
        )
        return torch.where(posed[..., None, None], added, 0)
