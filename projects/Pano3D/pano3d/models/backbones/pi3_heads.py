"""Pi3's heads: a small transformer per head, and the camera head."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pano3d.functional.rotation import nearest_rotation
from pano3d.models.layers import Block, CrossAttention, Mlp, RotaryTable, run_block

NORM_EPS = 1e-6
SMALLEST_ROW = 1e-12


class HeadDecoder(nn.Module):
    """Blocks of attention inside each view, between two linear layers.

    Args:
        in_channels: channels of the tokens that come in.
        dim: channels of the blocks.
        depth: blocks.
        num_heads: attention heads.
        mlp_ratio: hidden over outer width of the MLPs.
        out_channels: channels of the tokens that go out.
        checkpoint_activations: recompute the blocks in the backward pass.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        out_channels: int,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        self.checkpoint_activations = checkpoint_activations
        self.projects = nn.Linear(in_channels, dim)
        self.blocks = nn.ModuleList(
            Block(dim=dim, num_heads=num_heads, mlp_ratio=mlp_ratio, norm_eps=NORM_EPS) for _ in range(depth)
        )
        self.linear_out = nn.Linear(dim, out_channels)

    def forward(self, tokens: Tensor, rope: RotaryTable) -> Tensor:
        """Tokens (N, L, in_channels) of N views -> (N, L, out_channels)."""
        x = self.projects(tokens)
        for block in self.blocks:
            x = run_block(block, x, rope, recompute=self.checkpoint_activations and self.training)
        return self.linear_out(x)


class ResidualUnit(nn.Module):
    """Three rectified linear layers, added to their input."""

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.res_conv1 = nn.Linear(dim, dim)
        self.res_conv2 = nn.Linear(dim, dim)
        self.res_conv3 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.res_conv2(F.relu(self.res_conv1(x))))
        return x + F.relu(self.res_conv3(hidden))


class CameraHead(nn.Module):
    """One pose per view from its patch tokens.

    Args:
        dim: channels of the tokens.
    """

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.res_conv = nn.ModuleList(ResidualUnit(dim=dim) for _ in range(2))
        self.more_mlps = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())
        self.fc_t = nn.Linear(dim, 3)
        self.fc_rot = nn.Linear(dim, 9)
        # the untrained head starts near the identity, where the nearest rotation is well conditioned
        nn.init.trunc_normal_(self.fc_rot.weight, std=0.02)
        with torch.no_grad():
            self.fc_rot.bias.copy_(torch.eye(3).flatten())

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (..., L, C) -> camera_to_world (..., 4, 4)."""
        for unit in self.res_conv:
            tokens = unit(tokens)
        x = self.more_mlps(tokens.mean(-2))
        pose = torch.cat([rotation_from_rows(self.fc_rot(x)), self.fc_t(x)[..., None]], dim=-1)
        bottom = pose.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*pose.shape[:-2], 1, 4)
        return torch.cat([pose, bottom], dim=-2)


def rotation_from_rows(rows: Tensor) -> Tensor:
    """Rotations (..., 3, 3) nearest to the three rows in (..., 9), each scaled to unit length first."""
    return nearest_rotation(F.normalize(rows.unflatten(-1, (3, 3)), dim=-1, eps=SMALLEST_ROW))


class MetricBlock(nn.Module):
    """Cross-attention to the scene and MLP, each with pre-norm and residual."""

    def __init__(self, *, dim: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm_y = nn.LayerNorm(dim, eps=NORM_EPS)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.cross_attn = CrossAttention(dim=dim, num_heads=num_heads)
        self.norm3 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim=dim, hidden_dim=int(dim * mlp_ratio), out_dim=dim)

    def forward(self, x: Tensor, context: Tensor, ropes: tuple[RotaryTable, RotaryTable]) -> Tensor:
        """Queries (B, L, C) and a context (B, M, C) -> (B, L, C)."""
        keys, values = self.cross_attn.project(self.norm_y(context))
        x = x + self.cross_attn(self.norm2(x), keys, values, ropes=ropes)
        return x + self.mlp(self.norm3(x))


class MetricDecoder(nn.Module):
    """Queries that read the tokens of a whole scene.

    Args:
        in_channels: channels of queries and scene tokens.
        dim: channels of the blocks.
        depth: blocks.
        num_heads: attention heads.
        mlp_ratio: hidden over outer width of the MLPs.
        out_channels: channels of the result.
        checkpoint_activations: recompute the blocks in the backward pass.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        out_channels: int,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        self.checkpoint_activations = checkpoint_activations
        self.projects_x = nn.Linear(in_channels, dim)
        self.projects_y = nn.Linear(in_channels, dim)
        self.blocks = nn.ModuleList(
            MetricBlock(dim=dim, num_heads=num_heads, mlp_ratio=mlp_ratio) for _ in range(depth)
        )
        self.linear_out = nn.Linear(dim, out_channels)

    def forward(self, queries: Tensor, scene: Tensor, ropes: tuple[RotaryTable, RotaryTable]) -> Tensor:
        """Queries (B, L, in_channels) and scene tokens (B, M, in_channels) -> (B, L, out_channels)."""
        x, context = self.projects_x(queries), self.projects_y(scene)
        for block in self.blocks:
            x = run_block(block, x, context, ropes, recompute=self.checkpoint_activations and self.training)
        return self.linear_out(x)
