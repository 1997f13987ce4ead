"""VGGT's heads: the iterative camera head and the dense (DPT) heads."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pano3d.models.layers import Block, Mlp, PyramidFusion, resize, run_block

POSE_SIZE = 9
FIELD_WEIGHT = 0.1
FIELD_BASE = 100.0
FRAMES_PER_CHUNK = 8


class CameraHead(nn.Module):
    """Refine one camera encoding per view, several times with the same weights.

    Args:
        dim: channels of the tokens.
        depth: blocks per iteration, over the views of a scene.
        num_heads: attention heads.
        mlp_ratio: hidden over outer width of the MLPs.
        iterations: refinements.
    """

    def __init__(self, *, dim: int, depth: int, num_heads: int, mlp_ratio: float, iterations: int) -> None:
        super().__init__()
        self.iterations = iterations
        self.token_norm = nn.LayerNorm(dim)
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, POSE_SIZE))
        self.embed_pose = nn.Linear(POSE_SIZE, dim)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 3 * dim))
        self.trunk = nn.ModuleList(
            Block(dim=dim, num_heads=num_heads, mlp_ratio=mlp_ratio, norm_eps=1e-5, layer_scale=0.01)
            for _ in range(depth)
        )
        self.trunk_norm = nn.LayerNorm(dim)
        self.pose_branch = Mlp(dim=dim, hidden_dim=dim // 2, out_dim=POSE_SIZE)
        self._start_at_identity()

    def _start_at_identity(self) -> None:
        """Make the untrained head put out about the identity and 1 radian.

        Zero would be no rotation at all, and a negative field of view gets no gradient through its rectifier.
        """
        start = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
        nn.init.trunc_normal_(self.pose_branch.fc2.weight, std=0.02)
        with torch.no_grad():
            self.pose_branch.fc2.bias.copy_(start / self.iterations)

    def forward(self, tokens: Tensor) -> Tensor:
        """Camera tokens (B, V, C) -> encodings after every iteration (iterations, B, V, 9).

        See `pano3d.functional.pose_encoding`; fields of view are rectified, all else is linear.
        """
        tokens = self.token_norm(tokens)
        normed = F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)
        encodings: list[Tensor] = []
        for _ in range(self.iterations):
            start = encodings[-1].detach() if encodings else self.empty_pose_tokens.expand(*tokens.shape[:2], -1)
            shift, scale, gate = self.poseLN_modulation(self.embed_pose(start)).chunk(3, dim=-1)
            x = tokens + gate * (normed * (1 + scale) + shift)
            for block in self.trunk:
                x = block(x)
            update = self.pose_branch(self.trunk_norm(x))
            encodings.append(encodings[-1].detach() + update if encodings else update)
        pose, view = torch.stack(encodings).split([POSE_SIZE - 2, 2], dim=-1)
        return torch.cat([pose, F.relu(view)], dim=-1)


class DenseHead(nn.Module):
    """Token maps of four depths to one map at image resolution.

    Args:
        dim: channels of the tokens.
        features: channels of the fusion.
        level_channels: channels of the four levels, fine to coarse.
        out_channels: channels of the result.
        patch_size: pixels per patch side.
        checkpoint_activations: recompute each chunk of frames in the backward pass.
    """

    def __init__(
        self,
        *,
        dim: int,
        features: int,
        level_channels: tuple[int, int, int, int],
        out_channels: int,
        patch_size: int,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.checkpoint_activations = checkpoint_activations
        self.norm = nn.LayerNorm(dim)
        self.projects = nn.ModuleList(nn.Conv2d(dim, channels, kernel_size=1) for channels in level_channels)
        first, second, _, fourth = level_channels
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(first, first, kernel_size=4, stride=4),
                nn.ConvTranspose2d(second, second, kernel_size=2, stride=2),
                nn.Identity(),
                nn.Conv2d(fourth, fourth, kernel_size=3, stride=2, padding=1),
            ]
        )
        self.scratch = PyramidFusion(channels=level_channels, features=features, rectified_skip=True)
        # the official files keep the output convolutions under the fusion's name
        self.scratch.output_conv1 = nn.Conv2d(features, features // 2, kernel_size=3, padding=1)
        self.scratch.output_conv2 = nn.Sequential(
            nn.Conv2d(features // 2, 32, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, out_channels, kernel_size=1),
        )

    def forward(self, layers: list[Tensor], image_size: tuple[int, int]) -> Tensor:
        """Four times patch tokens (N, h * w, C) of N frames -> (N, H, W, out_channels)."""
        chunks = zip(*(layer.split(FRAMES_PER_CHUNK) for layer in layers), strict=True)
        recompute = self.checkpoint_activations and self.training
        return torch.cat([run_block(self._forward_chunk, image_size, *chunk, recompute=recompute) for chunk in chunks])

    def _forward_chunk(self, image_size: tuple[int, int], *layers: Tensor) -> Tensor:
        x = self.scratch.output_conv1(self.scratch(self._token_pyramid(layers, image_size)))
        x = resize(x, image_size)
        x += field_like(x, image_size)  # in place: this is the largest map
        return self.scratch.output_conv2(x).permute(0, 2, 3, 1)

    def _token_pyramid(self, layers: Sequence[Tensor], image_size: tuple[int, int]) -> list[Tensor]:
        """Maps of four sizes, fine to coarse."""
        height, width = image_size
        grid = height // self.patch_size, width // self.patch_size
        levels = []
        for tokens, project, resize_layer in zip(layers, self.projects, self.resize_layers, strict=True):
            maps = project(self.norm(tokens).transpose(1, 2).unflatten(2, grid))
            maps += field_like(maps, image_size)
            levels.append(resize_layer(maps))
        return levels


def field_like(maps: Tensor, image_size: tuple[int, int]) -> Tensor:
    """The fixed embedding (C, h, w) of where each cell of maps (N, C, h, w) lies in an image of size (H, W)."""
    field = position_field(tuple(maps.shape[-2:]), maps.shape[1], image_size[1] / image_size[0], maps.device)
    return field.to(maps.dtype)


@lru_cache(maxsize=32)
def position_field(grid: tuple[int, int], channels: int, aspect: float, device: torch.device) -> Tensor:
    """Embedding (channels, h, w), float32, of positions on a rectangle of unit half diagonal; kept per size.

    The first half of the channels holds sin, then cos, of the column, the second half those of the row, at frequencies
    100 ** (-k / n), n = channels / 4. `aspect` is width over height of the image. The channels of a cell lie next to
    each other in memory, as in maps that are made of tokens.
    """
    diagonal = (1 + aspect**2) ** 0.5
    quarter = channels // 4
    frequencies = FIELD_BASE ** (-torch.arange(quarter, dtype=torch.float64, device=device) / quarter)

    def embed(half_span: float, count: int) -> Tensor:
        end = half_span * (count - 1) / count
        angles = torch.linspace(-end, end, count, dtype=torch.float64, device=device)[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1).float() * FIELD_WEIGHT

    height, width = grid
    columns = embed(aspect / diagonal, width).expand(height, -1, -1)
    rows = embed(1 / diagonal, height)[:, None].expand(-1, width, -1)
    return torch.cat([columns, rows], dim=-1).permute(2, 0, 1)
