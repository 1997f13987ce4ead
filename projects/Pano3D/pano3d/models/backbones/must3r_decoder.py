"""MUSt3R's decoder: one stack of blocks in which views attend to a memory of other views."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from pano3d.models.layers import DecoderBlock, LinearHead, Mlp, RotaryTable, frame_rotary_table, run_block
from pano3d.models.layers.croco import NORM_EPS, ROPE_BASE

from .base import Tokens
from .must3r_memory import MUSt3RMemory

MEMORY_MODES = ('kv', 'norm_y', 'raw')
OUT_CHANNELS = 7
IN_MEMORY = -1
"""Stands for the view of a key that comes from the memory."""


class MemoryBlock(DecoderBlock):
    """Self-attention inside each view; cross-attention, without positions, to one context that all views share.

    Args:
        dim: channels.
        num_heads: attention heads.
        mlp_ratio: hidden over outer width of the MLP.
        memory_mode: see `MUSt3RBackbone`.
    """

    def __init__(self, *, dim: int, num_heads: int, mlp_ratio: float, memory_mode: str) -> None:
        super().__init__(dim=dim, num_heads=num_heads, mlp_ratio=mlp_ratio)
        self.memory_mode = memory_mode

    def remember(self, states: Tensor) -> Tensor:
        """What the memory keeps of states (B, T, C): (B, T, 2 C) in mode 'kv', else (B, T, C)."""
        if self.memory_mode == 'raw':
            return states
        if self.memory_mode == 'norm_y':
            return self.norm_y(states)
        return torch.cat(self.project_context(states), dim=-1)

    def recall(self, remembered: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, each (B, M, C), of what the memory keeps."""
        if self.memory_mode == 'raw':
            return self.project_context(remembered)
        if self.memory_mode == 'norm_y':
            return self.cross_attn.project(remembered)
        keys, values = remembered.chunk(2, dim=-1)
        return keys, values

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, rope: RotaryTable, mask: Tensor | None) -> Tensor:
        """States (B, V, N, C) of V views to states of the same shape.

        Args:
            x: states.
            keys: (B, M, C), one copy for all views.
            values: (B, M, C).
            rope: rotations of the N tokens in the self-attention.
            mask: (V * N, M), added to the logits.
        """
        attended = self.attn(self.norm1(x).flatten(0, 1), rope)
        x = x + attended.view(x.shape)
        attended = self.cross_attn(self.norm2(x).flatten(1, 2), keys, values, mask=mask)
        x = x + attended.view(x.shape)
        return x + self.mlp(self.norm3(x))


class MUSt3RDecoder(nn.Module):
    """The blocks with what is before and behind them; names are the official ones.

    Args:
        encoder_dim: channels of the encoder.
        dim: channels.
        depth: blocks.
        num_heads: attention heads.
        mlp_ratio: hidden over outer width of the MLPs.
        patch_size: pixels per patch side.
        feedback: add what the last block saw to what the memory keeps of all other blocks.
        memory_mode: see `MUSt3RBackbone`.
        frequency_scale: factor on the rotary frequencies.
        checkpoint_activations: recompute the blocks in the backward pass.
    """

    def __init__(
        self,
        *,
        encoder_dim: int,
        dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        patch_size: int,
        feedback: bool,
        memory_mode: str,
        frequency_scale: float,
        checkpoint_activations: bool,
    ) -> None:
        super().__init__()
        self.head_dim = dim // num_heads
        self.frequency_scale = frequency_scale
        self.checkpoint_activations = checkpoint_activations
        self.feat_embed_enc_to_dec = nn.Linear(encoder_dim, dim)
        self.image2_embed = nn.Parameter(torch.zeros(1, 1, dim))
        nn.init.normal_(self.image2_embed, std=0.02)
        self.blocks_dec = nn.ModuleList(
            MemoryBlock(dim=dim, num_heads=num_heads, mlp_ratio=mlp_ratio, memory_mode=memory_mode)
            for _ in range(depth)
        )
        self.feedback_norm = nn.LayerNorm(dim) if feedback else None  # the only norm of this network with eps 1e-5
        self.feedback_layer = Mlp(dim=dim, hidden_dim=int(dim * mlp_ratio), out_dim=dim) if feedback else None
        self.norm_dec = nn.LayerNorm(dim, eps=NORM_EPS)
        self.head_dec = LinearHead(dim=dim, out_channels=OUT_CHANNELS, patch_size=patch_size)

    def forward(
        self, memory: MUSt3RMemory | None, stacks: Sequence[Tokens], *, together: bool, causal: bool = False
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Views of a scene against a memory.

        Args:
            memory: what the views read; None begins a scene.
            stacks: encoded views, each stack (B, V, N, encoder_dim) of one size.
            together: views see the other views of the call too; else only the memory.
            causal: see only those before them.

        Returns:
            Normed last states (B, V, N, C) per stack; per block, if `together`, the states (B, T, C) of all views
            before it, which `remember` takes.
        """
        states = self._embed(stacks, starts=memory is None)
        ropes = [
            frame_rotary_table(stack.grid, 0, self.head_dim, ROPE_BASE, stack.patches.device, self.frequency_scale)
            for stack in stacks
        ]
        masks = self._masks(memory, stacks, causal=causal) if together else [None] * len(stacks)
        joined = memory is None or masks[0] is not None  # the one new view of a scene does not read itself
        before: list[Tensor] = []
        for index, block in enumerate(self.blocks_dec):
            context = [] if memory is None else [memory.layers[index]]
            if together:
                tokens = [state.flatten(1, 2) for state in states]
                before.append(torch.cat(tokens, dim=1) if len(tokens) > 1 else tokens[0])
                context += [block.remember(before[-1])] if joined else []
            keys, values = block.recall(torch.cat(context, dim=1) if len(context) > 1 else context[0])
            recompute = self.checkpoint_activations and self.training
            states = [
                run_block(block, state, keys, values, rope, mask, recompute=recompute)
                for state, rope, mask in zip(states, ropes, masks, strict=True)
            ]
        return [self.norm_dec(state) for state in states], before

    def remember(self, before: Sequence[Tensor]) -> Iterator[Tensor]:
        """What the memory keeps, block by block, of the states (B, T, C) before every block."""
        news = 0 if self.feedback_layer is None else self.feedback_layer(self.feedback_norm(before[-1]))
        for block, state in zip(self.blocks_dec[:-1], before[:-1], strict=True):
            yield block.remember(state + news)
        yield self.blocks_dec[-1].remember(before[-1])

    def _embed(self, stacks: Sequence[Tokens], *, starts: bool) -> list[Tensor]:
        """First states (B, V, N, C); all views but the reference, which starts a scene, are marked."""
        states = []
        for index, stack in enumerate(stacks):
            marks = self.image2_embed[:, None].expand(1, stack.patches.shape[1], 1, -1)
            if starts and index == 0:
                marks = torch.cat([torch.zeros_like(marks[:, :1]), marks[:, 1:]], dim=1)
            states.append(self.feat_embed_enc_to_dec(stack.patches) + marks)
        return states

    @staticmethod
    def _masks(memory: MUSt3RMemory | None, stacks: Sequence[Tokens], *, causal: bool) -> list[Tensor] | list[None]:
        """Per stack (V * N, M + T), 0 for the keys of the memory and of the call that its tokens see, else -inf.

        No view sees itself, unless it is all there is. A mask of type bool would be made such numbers anew, and these
        kept for the backward pass, in every block.
        """
        if count_views(stacks) == 1:
            return [None]
        key_views = views = view_labels(stacks)
        if memory is not None:
            key_views = torch.cat([views.new_full((memory.num_tokens,), IN_MEMORY), views])
        visible = key_views < views[:, None] if causal else key_views != views[:, None]
        if causal and memory is None:
            visible |= (views[:, None] == 0) & (key_views == 1)
        like, device = stacks[0].patches, views.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else like.dtype
        mask = torch.zeros(visible.shape, dtype=dtype, device=views.device).masked_fill_(~visible, -torch.inf)
        return list(mask.split([stack.patches.shape[1] * stack.patches.shape[2] for stack in stacks]))


def count_views(stacks: Sequence[Tokens]) -> int:
    return sum(stack.patches.shape[1] for stack in stacks)


def view_labels(stacks: Sequence[Tokens]) -> Tensor:
    """(T,), which view, from 0, each token of the stacks comes from."""
    labels, first = [], 0
    for stack in stacks:
        views, tokens = stack.patches.shape[1:3]
        labels.append(torch.arange(first, first + views, device=stack.patches.device).repeat_interleave(tokens))
        first += views
    return torch.cat(labels)
