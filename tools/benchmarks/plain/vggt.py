"""VGGT, plainly."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import (
    Block,
    DinoEncoder,
    FeatureFusionBlock,
    Mlp,
    Rope2D,
    grid_positions,
    special_positions,
)

FRAMES_PER_CHUNK = 8


class Aggregator(nn.Module):
    def __init__(
        self,
        dim: int,
        patch_embed: DinoEncoder,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        register_tokens: int,
    ) -> None:
        super().__init__()
        self.patch_embed = patch_embed
        self.camera_token = nn.Parameter(torch.zeros(1, 2, 1, dim))
        self.register_token = nn.Parameter(torch.zeros(1, 2, register_tokens, dim))
        self.special_tokens = 1 + register_tokens
        rope = Rope2D()

        def block() -> Block:
            return Block(dim, num_heads, mlp_ratio, eps=1e-5, rope=rope, qk_norm=True, layer_scale=True)

        self.frame_blocks = nn.ModuleList(block() for _ in range(depth))
        self.global_blocks = nn.ModuleList(block() for _ in range(depth))
        self.register_buffer('mean', torch.tensor([0.485, 0.456, 0.406]).view(1, 1, 3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor([0.229, 0.224, 0.225]).view(1, 1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor, wanted: set[int]) -> tuple[Tensor, dict[int, Tensor]]:
        """Images (B, S, 3, H, W) -> encoder tokens (B, S, h * w, C) and the wanted outputs (B, S, P, 2 C)."""
        batch, frames, _, height, width = images.shape
        images = (images - self.mean) / self.std
        patches = self.patch_embed(images.flatten(0, 1))

        special = torch.cat([self.camera_token, self.register_token], dim=2)
        special = torch.cat([special[:, :1], special[:, 1:].expand(-1, frames - 1, -1, -1)], dim=1)
        special = special.expand(batch, -1, -1, -1).flatten(0, 1)
        x = torch.cat([special, patches], dim=1)
        _, length, dim = x.shape

        patch_size = self.patch_embed.patch_size
        positions = grid_positions(batch * frames, height // patch_size, width // patch_size, x.device)
        positions = special_positions(positions, self.special_tokens)

        outputs = {}
        for index, (frame_block, global_block) in enumerate(zip(self.frame_blocks, self.global_blocks, strict=True)):
            x = x.view(batch * frames, length, dim)
            x = frame_block(x, positions.view(batch * frames, length, 2))
            frame_output = x
            x = x.view(batch, frames * length, dim)
            x = global_block(x, positions.view(batch, frames * length, 2))
            if index in wanted:
                outputs[index] = torch.cat(
                    [frame_output.view(batch, frames, length, dim), x.view(batch, frames, length, dim)], dim=-1
                )
        return patches.view(batch, frames, -1, dim), outputs


class CameraHead(nn.Module):
    def __init__(self, dim: int, depth: int, num_heads: int, mlp_ratio: float, iterations: int) -> None:
        super().__init__()
        self.iterations = iterations
        self.trunk = nn.ModuleList(Block(dim, num_heads, mlp_ratio, eps=1e-5, layer_scale=True) for _ in range(depth))
        self.token_norm = nn.LayerNorm(dim)
        self.trunk_norm = nn.LayerNorm(dim)
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, 9))
        self.embed_pose = nn.Linear(9, dim)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 3 * dim))
        self.adaln_norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.pose_branch = Mlp(dim, dim // 2, 9)

    def forward(self, tokens: Tensor) -> Tensor:
        """Camera tokens (B, S, C) -> (iterations, B, S, 9)."""
        tokens = self.token_norm(tokens)
        pose = None
        poses = []
        for _ in range(self.iterations):
            source = self.empty_pose_tokens.expand(*tokens.shape[:2], -1) if pose is None else pose.detach()
            shift, scale, gate = self.poseLN_modulation(self.embed_pose(source)).chunk(3, dim=-1)
            x = gate * (self.adaln_norm(tokens) * (1 + scale) + shift) + tokens
            for block in self.trunk:
                x = block(x)
            delta = self.pose_branch(self.trunk_norm(x))
            pose = delta if pose is None else pose + delta
            poses.append(torch.cat([pose[..., :7], F.relu(pose[..., 7:])], dim=-1))
        return torch.stack(poses)


class DPTHead(nn.Module):
    def __init__(self, dim: int, features: int, channels: tuple[int, ...], out_channels: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.norm = nn.LayerNorm(dim)
        self.projects = nn.ModuleList(nn.Conv2d(dim, width, 1) for width in channels)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(channels[0], channels[0], 4, stride=4),
                nn.ConvTranspose2d(channels[1], channels[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(channels[3], channels[3], 3, stride=2, padding=1),
            ]
        )
        scratch = nn.Module()
        scratch.layer1_rn = nn.Conv2d(channels[0], features, 3, padding=1, bias=False)
        scratch.layer2_rn = nn.Conv2d(channels[1], features, 3, padding=1, bias=False)
        scratch.layer3_rn = nn.Conv2d(channels[2], features, 3, padding=1, bias=False)
        scratch.layer4_rn = nn.Conv2d(channels[3], features, 3, padding=1, bias=False)
        scratch.refinenet1 = FeatureFusionBlock(features, rectified_skip=True)
        scratch.refinenet2 = FeatureFusionBlock(features, rectified_skip=True)
        scratch.refinenet3 = FeatureFusionBlock(features, rectified_skip=True)
        scratch.refinenet4 = FeatureFusionBlock(features, rectified_skip=True, has_skip=False)
        scratch.output_conv1 = nn.Conv2d(features, features // 2, 3, padding=1)
        scratch.output_conv2 = nn.Sequential(
            nn.Conv2d(features // 2, 32, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(32, out_channels, 1)
        )
        self.scratch = scratch

    def forward(self, tokens: list[Tensor], height: int, width: int) -> Tensor:
        """Four times patch tokens (N, h * w, C) -> (N, H, W, channels), some frames at a time."""
        outputs = []
        for start in range(0, tokens[0].shape[0], FRAMES_PER_CHUNK):
            chunk = [level[start : start + FRAMES_PER_CHUNK] for level in tokens]
            outputs.append(self.run_chunk(chunk, height, width))
        return torch.cat(outputs)

    def run_chunk(self, tokens: list[Tensor], height: int, width: int) -> Tensor:
        levels = []
        for x, project, resize_layer in zip(tokens, self.projects, self.resize_layers, strict=True):
            x = self.norm(x).transpose(1, 2)
            x = x.reshape(*x.shape[:2], height // self.patch_size, width // self.patch_size)
            x = project(x)
            x = x + position_field(x, width / height)
            levels.append(resize_layer(x))
        scratch = self.scratch
        level1 = scratch.layer1_rn(levels[0])
        level2 = scratch.layer2_rn(levels[1])
        level3 = scratch.layer3_rn(levels[2])
        level4 = scratch.layer4_rn(levels[3])
        x = scratch.refinenet4(level4, size=level3.shape[-2:])
        x = scratch.refinenet3(x, level3, size=level2.shape[-2:])
        x = scratch.refinenet2(x, level2, size=level1.shape[-2:])
        x = scratch.refinenet1(x, level1)
        x = scratch.output_conv1(x)
        x = F.interpolate(x, size=(height, width), mode='bilinear', align_corners=True)
        x = x + position_field(x, width / height)
        return scratch.output_conv2(x).permute(0, 2, 3, 1)


def position_field(maps: Tensor, aspect: float) -> Tensor:
    """0.1 times the embedding (C, h, w) of the place of every cell."""
    channels, height, width = maps.shape[1:]
    diagonal = (aspect**2 + 1) ** 0.5
    options = dict(dtype=torch.float64, device=maps.device)
    end = aspect / diagonal * (width - 1) / width
    u = torch.linspace(-end, end, width, **options)
    end = 1 / diagonal * (height - 1) / height
    v = torch.linspace(-end, end, height, **options)
    frequencies = 100.0 ** (-torch.arange(channels // 4, **options) / (channels // 4))

    def embed(places: Tensor) -> Tensor:
        angles = places[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1).float()

    columns = embed(u)[None].expand(height, -1, -1)
    rows = embed(v)[:, None].expand(-1, width, -1)
    return 0.1 * torch.cat([columns, rows], dim=-1).permute(2, 0, 1)


class PlainVGGT(nn.Module):
    """Images (B, S, 3, H, W) in [0, 1] -> poses, depth, points; the tracking head is left out."""

    def __init__(
        self,
        *,
        patch_size: int = 14,
        position_grid: int = 37,
        embed_dim: int = 1024,
        mlp_ratio: float = 4.0,
        register_tokens: int = 4,
        encoder_depth: int = 24,
        encoder_heads: int = 16,
        decoder_depth: int = 24,
        decoder_heads: int = 16,
        camera_depth: int = 4,
        camera_heads: int = 16,
        camera_iterations: int = 4,
        dense_layers: tuple[int, ...] = (4, 11, 17, 23),
        dense_channels: tuple[int, ...] = (256, 512, 1024, 1024),
        dense_features: int = 256,
    ) -> None:
        super().__init__()
        encoder = DinoEncoder(
            embed_dim, encoder_depth, encoder_heads, patch_size, position_grid, register_tokens, mlp_ratio, True
        )
        self.dense_layers = dense_layers
        self.last = decoder_depth - 1
        self.aggregator = Aggregator(embed_dim, encoder, decoder_depth, decoder_heads, mlp_ratio, register_tokens)
        self.camera_head = CameraHead(2 * embed_dim, camera_depth, camera_heads, mlp_ratio, camera_iterations)
        self.depth_head = DPTHead(2 * embed_dim, dense_features, dense_channels, 2, patch_size)
        self.point_head = DPTHead(2 * embed_dim, dense_features, dense_channels, 4, patch_size)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        batch, frames, _, height, width = images.shape
        encoded, outputs = self.aggregator(images, {*self.dense_layers, self.last})
        start = self.aggregator.special_tokens
        poses = self.camera_head(outputs[self.last][:, :, 0])
        tokens = [outputs[layer][:, :, start:].flatten(0, 1) for layer in self.dense_layers]
        depth, depth_confidence = (
            self.depth_head(tokens, height, width).view(batch, frames, height, width, 2).unbind(-1)
        )
        maps = self.point_head(tokens, height, width).view(batch, frames, height, width, 4)
        points = maps[..., :3].sign() * torch.expm1(maps[..., :3].abs())
        return {
            'encoded': encoded,
            'decoded': outputs[self.last][:, :, start:],
            'pose_encodings': poses,
            'depth': depth.exp(),
            'depth_confidence': 1 + depth_confidence.exp(),
            'points': points,
            'point_confidence': 1 + maps[..., 3].exp(),
        }
