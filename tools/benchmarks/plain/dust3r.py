"""DUSt3R, plainly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layers import (
    Attention,
    Block,
    CrossAttention,
    FeatureFusionBlock,
    LinearHead,
    Mlp,
    PatchEmbed,
    Rope2D,
    exp_direction,
    grid_positions,
)

EPS = 1e-6


class DecoderBlock(nn.Module):
    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, rope: Rope2D) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.attn = Attention(dim, num_heads, rope)
        self.cross_attn = CrossAttention(dim, num_heads, rope)
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.norm3 = nn.LayerNorm(dim, eps=EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.norm_y = nn.LayerNorm(dim, eps=EPS)

    def forward(self, x: Tensor, other: Tensor, positions: Tensor, other_positions: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), positions)
        x = x + self.cross_attn(self.norm2(x), self.norm_y(other), positions, other_positions)
        x = x + self.mlp(self.norm3(x))
        return x


class DPTHead(nn.Module):
    """Four token maps (N, h * w, C) -> (N, H, W, 4)."""

    def __init__(
        self, dims: tuple[int, ...], features: int, channels: tuple[int, ...], last_dim: int, patch_size: int
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.act_postprocess = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv2d(dims[0], channels[0], 1), nn.ConvTranspose2d(channels[0], channels[0], 4, stride=4)
                ),
                nn.Sequential(
                    nn.Conv2d(dims[1], channels[1], 1), nn.ConvTranspose2d(channels[1], channels[1], 2, stride=2)
                ),
                nn.Sequential(nn.Conv2d(dims[2], channels[2], 1)),
                nn.Sequential(
                    nn.Conv2d(dims[3], channels[3], 1), nn.Conv2d(channels[3], channels[3], 3, stride=2, padding=1)
                ),
            ]
        )
        scratch = nn.Module()
        for level, width in enumerate(channels, start=1):
            setattr(scratch, f'layer{level}_rn', nn.Conv2d(width, features, 3, padding=1, bias=False))
            setattr(scratch, f'refinenet{level}', FeatureFusionBlock(features, rectified_skip=False))
        scratch.layer_rn = nn.ModuleList(getattr(scratch, f'layer{level}_rn') for level in (1, 2, 3, 4))  # second names
        self.scratch = scratch
        self.head = nn.Sequential(
            nn.Conv2d(features, features // 2, 3, padding=1),
            nn.Upsample(scale_factor=2, mode='bilinear', align_corners=True),
            nn.Conv2d(features // 2, last_dim, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(last_dim, 4, 1),
        )

    def forward(self, layers: list[Tensor], height: int, width: int) -> Tensor:
        grid = height // self.patch_size, width // self.patch_size
        maps = [x.transpose(1, 2).reshape(x.shape[0], x.shape[2], *grid) for x in layers]
        maps = [process(x) for process, x in zip(self.act_postprocess, maps, strict=True)]
        level1, level2, level3, level4 = (reduce(x) for reduce, x in zip(self.scratch.layer_rn, maps, strict=True))
        x = self.scratch.refinenet4(level4)[:, :, : level3.shape[2], : level3.shape[3]]
        x = self.scratch.refinenet3(x, level3)
        x = self.scratch.refinenet2(x, level2)
        x = self.scratch.refinenet1(x, level1)
        return self.head(x).permute(0, 2, 3, 1)


class DownstreamHead(nn.Module):
    """Holds the DPT network under the name that the official files use."""

    def __init__(self, dpt: DPTHead) -> None:
        super().__init__()
        self.dpt = dpt

    def forward(self, layers: list[Tensor], height: int, width: int) -> Tensor:
        return self.dpt(layers, height, width)


class DownstreamLinearHead(LinearHead):
    def forward(self, layers: list[Tensor], height: int, width: int) -> Tensor:
        return super().forward(layers[-1], height, width)


class PlainDUSt3R(nn.Module):
    """Pairs of images in [0, 1] -> the points of both in the first camera, with confidences."""

    def __init__(
        self,
        *,
        patch_size: int = 16,
        mlp_ratio: float = 4.0,
        encoder_dim: int = 1024,
        encoder_depth: int = 24,
        encoder_heads: int = 16,
        decoder_dim: int = 768,
        decoder_depth: int = 12,
        decoder_heads: int = 12,
        head: str = 'dpt',
        dense_channels: tuple[int, ...] = (96, 192, 384, 768),
        dense_features: int = 256,
        dense_hidden: int = 128,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.hooks = (0, decoder_depth * 2 // 4, decoder_depth * 3 // 4, decoder_depth)
        rope = Rope2D()
        self.patch_embed = PatchEmbed(encoder_dim, patch_size)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))  # a name without a use
        self.enc_blocks = nn.ModuleList(
            Block(encoder_dim, encoder_heads, mlp_ratio, EPS, rope) for _ in range(encoder_depth)
        )
        self.enc_norm = nn.LayerNorm(encoder_dim, eps=EPS)
        self.decoder_embed = nn.Linear(encoder_dim, decoder_dim)
        self.dec_blocks = nn.ModuleList(
            DecoderBlock(decoder_dim, decoder_heads, mlp_ratio, rope) for _ in range(decoder_depth)
        )
        self.dec_blocks2 = nn.ModuleList(
            DecoderBlock(decoder_dim, decoder_heads, mlp_ratio, rope) for _ in range(decoder_depth)
        )
        self.dec_norm = nn.LayerNorm(decoder_dim, eps=EPS)

        def downstream_head() -> nn.Module:
            if head == 'linear':
                return DownstreamLinearHead(decoder_dim, 4, patch_size)
            dims = (encoder_dim, decoder_dim, decoder_dim, decoder_dim)
            return DownstreamHead(DPTHead(dims, dense_features, dense_channels, dense_hidden, patch_size))

        self.downstream_head1 = downstream_head()
        self.downstream_head2 = downstream_head()

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (N, h * w, C) and positions (N, h * w, 2)."""
        count, _, height, width = images.shape
        x = self.patch_embed((images - 0.5) / 0.5)
        positions = grid_positions(count, height // self.patch_size, width // self.patch_size, images.device)
        for block in self.enc_blocks:
            x = block(x, positions)
        return self.enc_norm(x), positions

    def decode(
        self, tokens1: Tensor, tokens2: Tensor, positions1: Tensor, positions2: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """What the heads read of both views: encoder tokens, two states in between, the normed last state."""
        x1, x2 = self.decoder_embed(tokens1), self.decoder_embed(tokens2)
        layers1, layers2 = [tokens1], [tokens2]
        for index, (block1, block2) in enumerate(zip(self.dec_blocks, self.dec_blocks2, strict=True), start=1):
            x1, x2 = block1(x1, x2, positions1, positions2), block2(x2, x1, positions2, positions1)
            if index in self.hooks[1:-1]:
                layers1.append(x1)
                layers2.append(x2)
        return [*layers1, self.dec_norm(x1)], [*layers2, self.dec_norm(x2)]

    def predict(
        self, side1: tuple[Tensor, Tensor], side2: tuple[Tensor, Tensor], size1: tuple[int, int], size2: tuple[int, int]
    ) -> dict[str, Tensor]:
        """From tokens and positions of both images of N pairs, of any two sizes (H, W)."""
        layers1, layers2 = self.decode(side1[0], side2[0], side1[1], side2[1])
        maps1 = self.downstream_head1(layers1, *size1)
        maps2 = self.downstream_head2(layers2, *size2)
        return {
            'decoded1': layers1[-1],
            'decoded2': layers2[-1],
            'points1': exp_direction(maps1[..., :3]),
            'confidence1': 1 + maps1[..., 3].exp(),
            'points2': exp_direction(maps2[..., :3]),
            'confidence2': 1 + maps2[..., 3].exp(),
        }

    def forward(self, image1: Tensor, image2: Tensor) -> dict[str, Tensor]:
        """Images (N, 3, H, W) of N pairs."""
        return self.predict(self.encode(image1), self.encode(image2), image1.shape[-2:], image2.shape[-2:])
