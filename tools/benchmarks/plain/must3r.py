"""MUSt3R, plainly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layers import Attention, Block, CrossAttention, LinearHead, Mlp, PatchEmbed, Rope2D, exp_direction, grid_positions

EPS = 1e-6

Memory = list[tuple[Tensor, Tensor]]
"""Keys and values (B, M, C) that every decoder block reads."""


class Encoder(nn.Module):
    def __init__(self, dim: int, depth: int, num_heads: int, patch_size: int, mlp_ratio: float) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.patch_embed = PatchEmbed(dim, patch_size)
        rope = Rope2D()
        self.blocks_enc = nn.ModuleList(Block(dim, num_heads, mlp_ratio, EPS, rope) for _ in range(depth))
        self.norm_enc = nn.LayerNorm(dim, eps=EPS)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, 3, H, W) in [0, 1] -> tokens (N, h * w, C) and positions (N, h * w, 2)."""
        count, _, height, width = images.shape
        x = self.patch_embed((images - 0.5) / 0.5)
        positions = grid_positions(count, height // self.patch_size, width // self.patch_size, images.device)
        for block in self.blocks_enc:
            x = block(x, positions)
        return self.norm_enc(x), positions


class DecoderBlock(nn.Module):
    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, rope: Rope2D) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.attn = Attention(dim, num_heads, rope)
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.norm_y = nn.LayerNorm(dim, eps=EPS)
        self.cross_attn = CrossAttention(dim, num_heads)
        self.norm3 = nn.LayerNorm(dim, eps=EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def prepare(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of states before this block."""
        y = self.norm_y(y)
        return self.cross_attn.projk(y), self.cross_attn.projv(y)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, positions: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), positions)
        x = x + self.cross_attn.attend(self.norm2(x), keys, values)
        x = x + self.mlp(self.norm3(x))
        return x


class Decoder(nn.Module):
    def __init__(
        self, encoder_dim: int, dim: int, depth: int, num_heads: int, patch_size: int, mlp_ratio: float, feedback: bool
    ) -> None:
        super().__init__()
        self.image2_embed = nn.Parameter(torch.zeros(1, 1, dim))
        self.feat_embed_enc_to_dec = nn.Linear(encoder_dim, dim)
        rope = Rope2D()
        self.blocks_dec = nn.ModuleList(DecoderBlock(dim, num_heads, mlp_ratio, rope) for _ in range(depth))
        self.norm_dec = nn.LayerNorm(dim, eps=EPS)
        if feedback:
            self.feedback_norm = nn.LayerNorm(dim)
            self.feedback_layer = Mlp(dim, 4 * dim)
        self.head_dec = LinearHead(dim, 7, patch_size)

    def update(
        self, tokens: list[Tensor], positions: list[Tensor], memory: Memory | None
    ) -> tuple[Memory, list[Tensor]]:
        """Views of any sizes, each (B, N_i, C), enter the memory; also their last states, normed."""
        x = [self.feat_embed_enc_to_dec(view) for view in tokens]
        first = 1 if memory is None else 0
        x = x[:first] + [view + self.image2_embed for view in x[first:]]
        before: list[list[Tensor]] = []
        for index, block in enumerate(self.blocks_dec):
            before.append(x)
            prepared = [block.prepare(view) for view in x]
            old = [] if memory is None else [memory[index]]
            states = []
            for view in range(len(x)):
                seen = old + [entry for other, entry in enumerate(prepared) if other != view]
                seen = seen or prepared  # a single view without a memory sees itself
                keys = torch.cat([key for key, _ in seen], dim=1)
                values = torch.cat([value for _, value in seen], dim=1)
                states.append(block(x[view], keys, values, positions[view]))
            x = states

        last = before[-1]
        if hasattr(self, 'feedback_layer'):
            delta = [self.feedback_layer(self.feedback_norm(view)) for view in last]
            before = [[view + d for view, d in zip(states, delta, strict=True)] for states in before[:-1]] + [last]
        updated = []
        for index, (block, states) in enumerate(zip(self.blocks_dec, before, strict=True)):
            old = [] if memory is None else [memory[index]]
            entries = old + [block.prepare(view) for view in states]
            updated.append((torch.cat([key for key, _ in entries], dim=1), torch.cat([v for _, v in entries], dim=1)))
        return updated, [self.norm_dec(view) for view in x]

    def render(self, tokens: Tensor, positions: Tensor, memory: Memory) -> Tensor:
        """Normed last states of one view (B, N, C) per scene that reads the memory."""
        x = self.feat_embed_enc_to_dec(tokens) + self.image2_embed
        for block, (keys, values) in zip(self.blocks_dec, memory, strict=True):
            x = block(x, keys, values, positions)
        return self.norm_dec(x)

    def points(self, states: Tensor, height: int, width: int) -> dict[str, Tensor]:
        maps = self.head_dec(states, height, width)
        return {
            'points': exp_direction(maps[..., :3]),
            'local_points': exp_direction(maps[..., 3:6]),
            'confidence': 1 + maps[..., 6].exp(),
        }


class PlainMUSt3R(nn.Module):
    """Images (B, V, 3, H, W) in [0, 1]: `keyframes` fill the memory together, then all views are rendered from it."""

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
        feedback: bool = True,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(encoder_dim, encoder_depth, encoder_heads, patch_size, mlp_ratio)
        self.decoder = Decoder(encoder_dim, decoder_dim, decoder_depth, decoder_heads, patch_size, mlp_ratio, feedback)

    def forward(self, images: Tensor, keyframe_batches: list[list[int]]) -> dict[str, Tensor]:
        batch, views, _, height, width = images.shape
        encoded, positions = self.encoder(images.flatten(0, 1))
        encoded, positions = encoded.unflatten(0, (batch, views)), positions.unflatten(0, (batch, views))
        memory = None
        for group in keyframe_batches:
            tokens, places = [encoded[:, view] for view in group], [positions[:, view] for view in group]
            memory, _ = self.decoder.update(tokens, places, memory)
        decoded = torch.stack(
            [self.decoder.render(encoded[:, view], positions[:, view], memory) for view in range(views)], dim=1
        )
        maps = self.decoder.points(decoded.flatten(0, 1), height, width)
        maps = {name: value.unflatten(0, (batch, views)) for name, value in maps.items()}
        return {'encoded': encoded, 'decoded': decoded, **maps}
