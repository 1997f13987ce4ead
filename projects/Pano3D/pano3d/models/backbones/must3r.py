"""MUSt3R (Cabon et al., CVPR 2025): an online network whose views read a memory of keyframes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pano3d.functional.focal import focal_from_points, pinhole_intrinsics
from pano3d.functional.point_regression import expand_points
from pano3d.functional.registration import register_points
from pano3d.models.keyframes import evenly_spaced
from pano3d.models.layers import CrocoEncoder
from pano3d.models.loading import rename, tensors_of
from pano3d.registry import MODELS
from pano3d.structures import Reconstruction

from .base import GeometryPrediction, OnlineBackbone, Tokens
from .must3r_decoder import MEMORY_MODES, MUSt3RDecoder, count_views, view_labels
from .must3r_memory import MUSt3RMemory

OFFICIAL_NAMES = {'encoder.blocks_enc.': 'encoder.blocks.', 'encoder.norm_enc.': 'encoder.norm.'}
PARTS = ('encoder', 'decoder')


@MODELS.register_module()
class MUSt3RBackbone(OnlineBackbone):
    """The online network; the defaults are MUSt3R_512.

    `decode` lets keyframes, the first view always among them, enter a memory and renders all views from it. In eval
    mode up to `max_keyframes` views at equal distances enter as `update_batches` says. In training mode the first view
    and others drawn at random (from torch's global generator) enter in one causal call, as in the official training,
    and `regress` gives the geometry of that pass too.

    Args:
        patch_size: pixels per patch side.
        encoder_dim: channels of E.
        encoder_depth: blocks of the encoder.
        encoder_heads: attention heads of the encoder.
        decoder_dim: channels of F.
        decoder_depth: blocks of the decoder.
        decoder_heads: attention heads of the decoder.
        mlp_ratio: hidden over outer width of the MLPs.
        feedback: the memory learns from the last block; False for files without weights `feedback_*`.
        memory_mode: what the memory keeps of a token, with equal results. 'kv', keys and values, computed once, is the
            fastest; 'norm_y' and 'raw', normed or raw states, take half of its size and project anew at every reading.
        frequency_scale: factor on the rotary frequencies, 512 / 768 for the network of 768 pixels.
        max_keyframes: views in the memory at most, in eval mode.
        update_batches: how many views enter together, call by call, in eval mode; the last number repeats.
        training_keyframes: views in the memory in training; None draws from 2 to all for every batch.
        checkpoint_activations: recompute activations in the backward pass: less memory, more time.
        init_cfg: `dict(type='Pretrained', checkpoint=...)` loads an official file.

    Raises:
        ValueError: on an unknown mode or numbers of views below 1.
    """

    def __init__(
        self,
        *,
        patch_size: int = 16,
        encoder_dim: int = 1024,
        encoder_depth: int = 24,
        encoder_heads: int = 16,
        decoder_dim: int = 768,
        decoder_depth: int = 12,
        decoder_heads: int = 12,
        mlp_ratio: float = 4.0,
        feedback: bool = True,
        memory_mode: str = 'kv',
        frequency_scale: float = 1.0,
        max_keyframes: int = 20,
        update_batches: Sequence[int] = (2, 1),
        training_keyframes: int | None = None,
        checkpoint_activations: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if memory_mode not in MEMORY_MODES:
            raise ValueError(f'`memory_mode` must be one of {MEMORY_MODES}, got {memory_mode!r}')
        numbers = [max_keyframes, *update_batches, *([] if training_keyframes is None else [training_keyframes])]
        if not update_batches or min(numbers) < 1:
            raise ValueError(
                '`max_keyframes`, `update_batches` and `training_keyframes` must be numbers of views from 1, got '
                f'{max_keyframes}, {tuple(update_batches)} and {training_keyframes}'
            )
        self.patch_size = patch_size
        self.encoder_dim = encoder_dim
        self.decoder_dim = decoder_dim
        self.max_keyframes = max_keyframes
        self.update_batches = tuple(update_batches)
        self.training_keyframes = training_keyframes
        self.encoder = CrocoEncoder(
            dim=encoder_dim,
            depth=encoder_depth,
            num_heads=encoder_heads,
            patch_size=patch_size,
            mlp_ratio=mlp_ratio,
            frequency_scale=frequency_scale,
            checkpoint_activations=checkpoint_activations,
        )
        self.decoder = MUSt3RDecoder(
            encoder_dim=encoder_dim,
            dim=decoder_dim,
            depth=decoder_depth,
            num_heads=decoder_heads,
            mlp_ratio=mlp_ratio,
            patch_size=patch_size,
            feedback=feedback,
            memory_mode=memory_mode,
            frequency_scale=frequency_scale,
            checkpoint_activations=checkpoint_activations,
        )

    def encode(self, images: Tensor) -> Tokens:
        """Normed patch tokens of every view, (B, V, h * w, C)."""
        self.check_images(images)
        patches = self.encoder(images.flatten(0, 1) * 2 - 1)
        grid = images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size
        return Tokens(patches.unflatten(0, images.shape[:2]), grid)

    def update(
        self, memory: MUSt3RMemory | None, encoded: Tokens | Sequence[Tokens], *, causal: bool = False
    ) -> tuple[MUSt3RMemory, tuple[Tokens, ...]]:
        """Let views enter the memory; all of a call see the memory and each other, or, if causal, those before them.

        Args:
            memory: what an earlier call returned; None begins a scene, whose reference is the first view of the first
                stack.
            encoded: views of one size, or several stacks of views, each of its own size.
            causal: the official training's way. The first view of a scene sees the second one all the same.

        Returns:
            The new memory, and the decoded tokens, stack by stack.

        Raises:
            ValueError: if the tokens are not this encoder's, or of another number of scenes than the memory.
        """
        stacks = self._check_stacks(memory, encoded)
        states, before = self.decoder(memory, stacks, together=True, causal=causal)
        entries = self.decoder.remember(before)
        memory = MUSt3RMemory.append(memory, entries, view_labels(stacks), count_views(stacks))
        return memory, tuple(Tokens(state, stack.grid) for state, stack in zip(states, stacks, strict=True))

    def render(self, memory: MUSt3RMemory, encoded: Tokens) -> Tokens:
        """Normed last states (B, V, h * w, C) of views that read the memory; they do not see each other.

        Raises:
            ValueError: if the memory is empty, the tokens are not this encoder's, or of another number of scenes.
        """
        if memory is None or not memory.num_tokens:
            raise ValueError('the memory is empty; let at least one view enter it with `update` before rendering')
        stacks = self._check_stacks(memory, encoded)
        states, _ = self.decoder(memory, stacks, together=False)
        return Tokens(states[0], encoded.grid)

    def refine(self, memory: MUSt3RMemory, batches: Sequence[Tokens | Sequence[Tokens]]) -> MUSt3RMemory:
        """Let the views of a memory, call by call, see all of it; what they are then replaces what they were.

        What the first view left stays as it is.

        Args:
            memory: of the views of all batches.
            batches: what was given to `update`, call by call.

        Raises:
            ValueError: if the batches are not the views of the memory.
        """
        calls = [self._check_stacks(memory, batch) for batch in batches]
        found = sum(map(count_views, calls))
        if found != memory.num_images:
            raise ValueError(f'the memory has {memory.num_images} images, but the batches have {found} views')
        first = 0
        for stacks in calls:
            _, before = self.decoder(memory, stacks, together=True)
            labels = view_labels(stacks) + first
            kept = labels > 0
            entries = [entry[:, kept] for entry in self.decoder.remember(before)]
            memory = memory.replace(entries, labels[kept])
            first += count_views(stacks)
        return memory

    def _check_stacks(self, memory: MUSt3RMemory | None, encoded: Tokens | Sequence[Tokens]) -> list[Tokens]:
        stacks = [encoded] if isinstance(encoded, Tokens) else list(encoded)
        if not stacks:
            raise ValueError('no view was given')
        batch_size = stacks[0].patches.shape[0] if memory is None else memory.batch_size
        for stack in stacks:
            shape, tokens = tuple(stack.patches.shape), stack.grid[0] * stack.grid[1]
            if len(shape) != 4 or shape[1] == 0 or shape[2:] != (tokens, self.encoder_dim):
                raise ValueError(
                    f'encoded tokens must have shape (B, V, {tokens}, {self.encoder_dim}), V >= 1, on the grid '
                    f'{stack.grid}, got {shape}; views of another size are a stack of their own'
                )
            if shape[0] != batch_size:
                where = 'the other stacks have' if memory is None else 'the memory has'
                raise ValueError(f'{where} {batch_size} scenes, got tokens of {shape[0]}')
        return stacks

    def fill(self, keyframes: Sequence[Tokens]) -> tuple[MUSt3RMemory, tuple[Tokens, ...]]:
        """In training mode one causal call, in eval mode as `update_batches` says; see `OnlineBackbone.fill`."""
        if self.training:
            return self.update(None, keyframes, causal=True)
        memory, passes = None, [[] for _ in keyframes]
        places = [(stack, view) for stack, tokens in enumerate(keyframes) for view in range(tokens.patches.shape[1])]
        for batch in self._split(places):
            views = {stack: [v for s, v in batch if s == stack] for stack, _ in batch}
            taken = [Tokens(keyframes[s].patches[:, chosen], keyframes[s].grid) for s, chosen in views.items()]
            memory, decoded = self.update(memory, taken)
            for stack, tokens in zip(views, decoded, strict=True):
                passes[stack].append(tokens.patches)
        return memory, tuple(
            Tokens(torch.cat(states, dim=1), stack.grid) for states, stack in zip(passes, keyframes, strict=True)
        )

    def decode(self, encoded: Tokens) -> Tokens:
        """F of all views, rendered; `layers`, in training mode only: F of the pass into the memory, and which views."""
        views = self.choose_keyframes(encoded.patches.shape[1])
        memory, (entered,) = self.fill([Tokens(encoded.patches[:, views], encoded.grid)])
        rendered = self.render(memory, encoded)
        if not self.training:
            return rendered
        return Tokens(
            rendered.patches, encoded.grid, (entered.patches, torch.tensor(views, device=memory.labels.device))
        )

    def choose_keyframes(self, views: int) -> list[int]:
        if not self.training:
            return evenly_spaced(views, self.max_keyframes)
        count = self.training_keyframes
        if count is None and views > 2:
            count = int(torch.randint(2, views + 1, ()))
        others = torch.randperm(views - 1)[: min(count or views, views) - 1]
        return [0, *(others + 1).tolist()]

    def _split(self, views: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
        """Views by update call."""
        batches, sizes = [], list(self.update_batches)
        while views:
            size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
            batches.append(views[:size])
            views = views[size:]
        return batches

    def regress(self, encoded: Tokens, decoded: Tokens, image_size: tuple[int, int]) -> GeometryPrediction:
        """The head in full precision.

        Returns:
            `points` (B, V, H, W, 3) in the frame of the first view, `local_points` (B, V, H, W, 3) in each view's own
            and `confidence` (B, V, H, W), above 1, of both. From training mode also `update_views` (k,), the views
            that entered the memory, and `update_points`, `update_local_points`, `update_confidence` (B, k, ...), what
            they were on the way in.
        """
        prediction = self._regress(decoded.patches, decoded.grid)
        if decoded.layers:
            states, views = decoded.layers
            prediction |= {f'update_{name}': value for name, value in self._regress(states, decoded.grid).items()}
            prediction['update_views'] = views
        return prediction

    def _regress(self, states: Tensor, grid: tuple[int, int]) -> GeometryPrediction:
        head = self.decoder.head_dec
        with torch.autocast(states.device.type, enabled=False):
            raw = head(states.flatten(0, 1).to(head.proj.weight.dtype), grid)
            return activate(raw.unflatten(0, states.shape[:2]))

    def reconstruct(self, prediction: GeometryPrediction) -> Reconstruction:
        """Focal lengths from the local points; poses that bring these onto the points, by confidence."""
        points, local_points = prediction['points'], prediction['local_points']
        weights = prediction['confidence'] - 1
        poses, _ = register_points(local_points.flatten(2, 3), points.flatten(2, 3), weights.flatten(2))
        return Reconstruction(
            points=points,
            local_points=local_points,
            confidence=prediction['confidence'],
            camera_to_world=poses,
            intrinsics=pinhole_intrinsics(focal_from_points(local_points), tuple(points.shape[2:4])),
            valid=points.isfinite().all(-1) & local_points.isfinite().all(-1),
        )

    def encoder_modules(self) -> list[str]:
        return ['encoder']

    def geometry_heads(self) -> list[str]:
        return ['decoder.head_dec']

    def translate_official(self, content: object, path: Path) -> dict[str, Tensor]:
        """Released files hold two state dicts, `encoder` and `decoder`; one with these prefixes is taken too."""
        state = tensors_of(content, path, parts=PARTS)
        in_file = any(name.startswith('decoder.feedback_') for name in state)
        ours = 'decoder.image2_embed' in state  # what another file is, the comparison by name says
        if ours and in_file != (self.decoder.feedback_layer is not None):
            raise ValueError(
                f'{path} has {"" if in_file else "no "}weights `feedback_*`, but the network was built with '
                f'`feedback={not in_file}`; set `feedback={in_file}`'
            )
        return rename(state, OFFICIAL_NAMES)


def activate(raw: Tensor) -> GeometryPrediction:
    """Head outputs (..., H, W, 7) -> points, points in the camera's frame, and the confidence 1 + exp of both."""
    points, local_points, confidence = raw.split([3, 3, 1], dim=-1)
    return {
        'points': expand_points(points),
        'local_points': expand_points(local_points),
        'confidence': 1 + confidence.squeeze(-1).exp(),
    }
