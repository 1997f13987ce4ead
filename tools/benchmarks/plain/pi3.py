"""Pi3, plainly."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Block, DinoEncoder, LinearHead, Rope2D, grid_positions, special_positions

EPS = 1e-6


class HeadDecoder(nn.Module):
    """A few blocks inside each view."""

    def __init__(
        self, in_dim: int, dim: int, out_dim: int, depth: int, num_heads: int, mlp_ratio: float, rope: Rope2D
    ) -> None:
        super().__init__()
        self.projects = nn.Linear(in_dim, dim)
        self.blocks = nn.ModuleList(Block(dim, num_heads, mlp_ratio, EPS, rope) for _ in range(depth))
        self.linear_out = nn.Linear(dim, out_dim)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        x = self.projects(x)
        for block in self.blocks:
            x = block(x, positions)
        return self.linear_out(x)


class ResidualUnit(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.res_conv1 = nn.Linear(dim, dim)
        self.res_conv2 = nn.Linear(dim, dim)
        self.res_conv3 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        residual = F.relu(self.res_conv1(x))
        residual = F.relu(self.res_conv2(residual))
        residual = F.relu(self.res_conv3(residual))
        return x + residual


class CameraHead(nn.Module):
    """Patch tokens (N, h * w, C) -> camera-to-world (N, 4, 4)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.res_conv = nn.ModuleList([ResidualUnit(dim), ResidualUnit(dim)])
        self.more_mlps = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())
        self.fc_t = nn.Linear(dim, 3)
        self.fc_rot = nn.Linear(dim, 9)

    def forward(self, x: Tensor) -> Tensor:
        for unit in self.res_conv:
            x = unit(x)
        x = self.more_mlps(x.mean(dim=1))
        pose = torch.zeros(x.shape[0], 4, 4, device=x.device)
        pose[:, :3, :3] = self.nearest_rotation(self.fc_rot(x).view(-1, 3, 3))
        pose[:, :3, 3] = self.fc_t(x)
        pose[:, 3, 3] = 1
        return pose

    def nearest_rotation(self, matrix: Tensor) -> Tensor:
        matrix = F.normalize(matrix, dim=-1, eps=1e-12)
        u, _, vt = torch.linalg.svd(matrix)
        signs = torch.ones_like(u[:, 0])
        signs[:, 2] = torch.linalg.det(u @ vt)
        return u @ torch.diag_embed(signs) @ vt


class PlainPi3(nn.Module):
    """Images (B, N, 3, H, W) in [0, 1] -> local points, confidence logits, poses."""

    def __init__(
        self,
        *,
        patch_size: int = 14,
        position_grid: int = 37,
        embed_dim: int = 1024,
        mlp_ratio: float = 4.0,
        encoder_registers: int = 4,
        encoder_depth: int = 24,
        encoder_heads: int = 16,
        decoder_registers: int = 5,
        decoder_depth: int = 36,
        decoder_heads: int = 16,
        head_dim: int = 1024,
        head_depth: int = 5,
        head_heads: int = 16,
        dense_channels: int = 1024,
        camera_channels: int = 512,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.encoder = DinoEncoder(
            embed_dim,
            encoder_depth,
            encoder_heads,
            patch_size,
            position_grid,
            encoder_registers,
            mlp_ratio,
            mask_token=False,
        )
        self.register_token = nn.Parameter(torch.zeros(1, 1, decoder_registers, embed_dim))
        rope = Rope2D()
        self.decoder = nn.ModuleList(
            Block(embed_dim, decoder_heads, mlp_ratio, EPS, rope, qk_norm=True, layer_scale=True)
            for _ in range(decoder_depth)
        )

        def head_decoder(out_dim: int) -> HeadDecoder:
            return HeadDecoder(2 * embed_dim, head_dim, out_dim, head_depth, head_heads, mlp_ratio, rope)

        self.point_decoder = head_decoder(dense_channels)
        self.point_head = LinearHead(dense_channels, 3, patch_size)
        self.conf_decoder = head_decoder(dense_channels)
        self.conf_head = LinearHead(dense_channels, 1, patch_size)
        self.camera_decoder = head_decoder(camera_channels)
        self.camera_head = CameraHead(camera_channels)
        self.register_buffer('image_mean', torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer('image_std', torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def decode(self, patches: Tensor, batch: int, views: int, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Patch tokens (B * N, h * w, C) -> last two states (B * N, P, 2 C) and their positions (B * N, P, 2)."""
        registers = self.register_token.expand(batch, views, -1, -1).flatten(0, 1)
        x = torch.cat([registers, patches], dim=1)
        _, length, dim = x.shape
        positions = special_positions(grid_positions(batch * views, *grid, x.device), registers.shape[1])
        for index, block in enumerate(self.decoder):
            before = x
            if index % 2 == 0:
                x = block(x.view(batch * views, length, dim), positions.view(batch * views, length, 2))
            else:
                x = block(x.view(batch, views * length, dim), positions.view(batch, views * length, 2))
        last_two = torch.cat([before.view(batch * views, length, dim), x.view(batch * views, length, dim)], dim=-1)
        return last_two, positions

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        batch, views, _, height, width = images.shape
        grid = height // self.patch_size, width // self.patch_size
        patches = self.encoder((images.flatten(0, 1) - self.image_mean) / self.image_std)
        decoded, positions = self.decode(patches, batch, views, grid)
        special = self.register_token.shape[2]

        point_tokens = self.point_decoder(decoded, positions)[:, special:]
        confidence_tokens = self.conf_decoder(decoded, positions)[:, special:]
        camera_tokens = self.camera_decoder(decoded, positions)[:, special:]

        raw = self.point_head(point_tokens, height, width)
        z = raw[..., 2:].exp()
        local_points = torch.cat([raw[..., :2] * z, z], dim=-1).view(batch, views, height, width, 3)
        confidence = self.conf_head(confidence_tokens, height, width).view(batch, views, height, width)
        poses = self.camera_head(camera_tokens).view(batch, views, 4, 4)
        return {
            'encoded': patches.unflatten(0, (batch, views)),
            'decoded': decoded[:, special:].unflatten(0, (batch, views)),
            'local_points': local_points,
            'confidence_logits': confidence,
            'camera_to_world': poses,
        }
