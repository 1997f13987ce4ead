"""What Pi3 and Pi3X share: the encoder, the decoder over all views without a reference, three heads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from pano3d.functional.focal import focal_from_points, pinhole_intrinsics
from pano3d.functional.geometry import relative_to_first, transform_points
from pano3d.models.layers import Block, DinoEncoder, RotaryTable, frame_rotary_table, run_block
from pano3d.structures import Reconstruction

from .base import Backbone, GeometryPrediction, Tokens
from .pi3_heads import CameraHead, HeadDecoder

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
NORM_EPS = 1e-6
ROPE_BASE = 100.0


class Pi3Trunk(Backbone):
    """Encoder, decoder and heads but for the last layer of the dense ones, which a subclass adds.

    A subclass builds `point_head` (3 channels) and `conf_head` (1 channel), modules from tokens (N, h * w, C) and a
    grid to maps (N, H, W, channels), and calls `freeze`.

    Args:
        patch_size: pixels per patch side.
        position_grid: side of the encoder's square position table, in patches.
        embed_dim: channels C of encoder and decoder; E has C channels, F has 2 C.
        mlp_ratio: hidden over outer width of all transformer MLPs.
        encoder_registers: register tokens per view in the encoder.
        encoder_depth: blocks of the encoder.
        encoder_heads: attention heads of the encoder.
        decoder_registers: register tokens per view in the decoder and the heads.
        decoder_depth: blocks of the decoder, in turn inside each view and over the scene.
        decoder_heads: attention heads of the decoder.
        layer_scale: initial LayerScale of the decoder.
        head_dim: channels of the blocks of the heads.
        head_depth: blocks of each head.
        head_heads: attention heads of each head.
        dense_channels: channels of the tokens that the dense heads read.
        camera_channels: channels of the tokens that the camera head reads.
        checkpoint_activations: recompute activations in the backward pass.
        init_cfg: see `Backbone`.
    """

    largest_log_depth = float('inf')

    def __init__(
        self,
        *,
        patch_size: int,
        position_grid: int,
        embed_dim: int,
        mlp_ratio: float,
        encoder_registers: int,
        encoder_depth: int,
        encoder_heads: int,
        decoder_registers: int,
        decoder_depth: int,
        decoder_heads: int,
        layer_scale: float,
        head_dim: int,
        head_depth: int,
        head_heads: int,
        dense_channels: int,
        camera_channels: int,
        checkpoint_activations: bool,
        init_cfg: dict | None,
    ) -> None:
        super().__init__(init_cfg)
        if decoder_depth < 2 or decoder_depth % 2:
            raise ValueError(f'`decoder_depth` must be even, a block per view and one over all, got {decoder_depth}')
        for name, dim, heads in (('decoder', embed_dim, decoder_heads), ('heads', head_dim, head_heads)):
            if dim % (4 * heads):
                raise ValueError(f'the {name} need channels that are a multiple of 4 * heads, got {dim} and {heads}')
        self.patch_size = patch_size
        self.encoder_dim = embed_dim
        self.decoder_dim = 2 * embed_dim
        self.decoder_registers = decoder_registers
        self.decoder_head_dim = embed_dim // decoder_heads
        self.head_head_dim = head_dim // head_heads
        self.checkpoint_activations = checkpoint_activations
        # buffers with a name in the official files
        self.register_buffer('image_mean', torch.tensor(IMAGE_MEAN).view(1, 3, 1, 1))
        self.register_buffer('image_std', torch.tensor(IMAGE_STD).view(1, 3, 1, 1))
        self.encoder = DinoEncoder(
            dim=embed_dim,
            depth=encoder_depth,
            num_heads=encoder_heads,
            patch_size=patch_size,
            position_grid=position_grid,
            register_tokens=encoder_registers,
            mlp_ratio=mlp_ratio,
            mask_token=False,
            checkpoint_activations=checkpoint_activations,
        )
        self.register_token = nn.Parameter(torch.zeros(1, 1, decoder_registers, embed_dim))
        nn.init.trunc_normal_(self.register_token, std=0.02)
        self.decoder = nn.ModuleList(
            Block(
                dim=embed_dim,
                num_heads=decoder_heads,
                mlp_ratio=mlp_ratio,
                norm_eps=NORM_EPS,
                qk_norm=True,
                layer_scale=layer_scale,
            )
            for _ in range(decoder_depth)
        )
        for name, out_channels in (('point', dense_channels), ('conf', dense_channels), ('camera', camera_channels)):
            decoder = HeadDecoder(
                in_channels=self.decoder_dim,
                dim=head_dim,
                depth=head_depth,
                num_heads=head_heads,
                mlp_ratio=mlp_ratio,
                out_channels=out_channels,
                checkpoint_activations=checkpoint_activations,
            )
            self.add_module(f'{name}_decoder', decoder)
        self.camera_head = CameraHead(dim=camera_channels)

    def parts(self) -> dict[str, tuple[str, ...]]:
        """What `frozen` may name -> its submodules and parameters."""
        return {
            'decoder': ('register_token', 'decoder'),
            'point': ('point_decoder', 'point_head'),
            'camera': ('camera_decoder', 'camera_head'),
            'confidence': ('conf_decoder', 'conf_head'),
        }

    def freeze(self, frozen: Sequence[str]) -> None:
        """Keep the named parts from training.

        Raises:
            ValueError: if there is no such part.
        """
        unknown = sorted(set(frozen) - set(self.parts()))
        if unknown:
            raise ValueError(f'`frozen` may name {sorted(self.parts())}, got {unknown}')
        self.frozen = tuple(frozen)
        for part in self.frozen:
            for name in self.parts()[part]:
                getattr(self, name).requires_grad_(False)

    def learning(self, part: str) -> torch.set_grad_enabled:
        """Context in which gradients are on, if they were and the part is not frozen."""
        return torch.set_grad_enabled(torch.is_grad_enabled() and part not in self.frozen)

    def encode(self, images: Tensor) -> Tokens:
        """Normed DINOv2 patch tokens of every view, (B, V, h * w, C)."""
        self.check_images(images)
        normalised = (images.flatten(0, 1) - self.image_mean) / self.image_std
        patches = self.encoder(normalised)[:, self.encoder.prefix_tokens :]
        grid = images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size
        return Tokens(patches.unflatten(0, images.shape[:2]), grid)

    def decode(self, encoded: Tokens) -> Tokens:
        """Last two states of the decoder (B, V, h * w, 2 C); `layers`: the same with the register tokens first."""
        with self.learning('decoder'):
            within, across = deque(self.decoder_states(encoded), maxlen=2)
        last = torch.cat([within, across], dim=-1)
        return Tokens(last[:, :, self.decoder_registers :], encoded.grid, (last,))

    def decoder_states(self, encoded: Tokens) -> Iterator[Tensor]:
        """Tokens (B, V, registers + h * w, C) after each block."""
        batch, views = encoded.patches.shape[:2]
        x = torch.cat([self.register_token.expand(batch, views, -1, -1), encoded.patches], dim=2)
        frame_rope = self._rotary_table(encoded.grid, self.decoder_head_dim, x.device)
        scene_rope = RotaryTable(*(entry.repeat(views, 1) for entry in frame_rope))
        recompute = self.checkpoint_activations and self.training
        for index, block in enumerate(self.decoder):
            over_scene = index % 2 == 1
            tokens, rope = (x.flatten(1, 2), scene_rope) if over_scene else (x.flatten(0, 1), frame_rope)
            x = run_block(block, tokens, rope, recompute=recompute).view_as(x)
            x = self.after_block(index, x, encoded)
            yield x

    def after_block(self, index: int, x: Tensor, encoded: Tokens) -> Tensor:
        """What a subclass makes of the state (B, V, registers + h * w, C) after a decoder block."""
        return x

    def _rotary_table(self, grid: tuple[int, int], head_dim: int, device: torch.device) -> RotaryTable:
        return frame_rotary_table(grid, self.decoder_registers, head_dim, ROPE_BASE, device)

    def regress(self, encoded: Tokens, decoded: Tokens, image_size: tuple[int, int]) -> GeometryPrediction:
        """Heads; their last layers in full precision.

        Returns:
            `local_points` (B, V, H, W, 3) in each view's camera frame, `confidence_logits` (B, V, H, W), and
            `camera_to_world` (B, V, 4, 4). World frame and scale are arbitrary, but one per scene. What a frozen part
            puts out has no gradient.
        """
        size = tuple(side * self.patch_size for side in decoded.grid)
        if size != tuple(image_size):
            raise ValueError(f'`image_size` must be {size} beside tokens on a grid {decoded.grid}, got {image_size}')
        tokens = decoded.layers[0].flatten(0, 1)
        # the largest outputs last, so that they are not there yet while the other heads run
        with self.learning('camera'):
            poses = self._run_head(self.camera_decoder, self.camera_head, tokens, decoded.grid)
        with self.learning('confidence'):
            logits = self._run_head(self.conf_decoder, partial(self.conf_head, grid=decoded.grid), tokens, decoded.grid)
        with self.learning('point'):
            points = self._run_head(
                self.point_decoder, partial(self.point_head, grid=decoded.grid), tokens, decoded.grid
            )
            depth = points[..., 2:].clamp(max=self.largest_log_depth).exp_()
            local_points = torch.cat([points[..., :2] * depth, depth], dim=-1)
        outputs = {'local_points': local_points, 'confidence_logits': logits.squeeze(-1), 'camera_to_world': poses}
        return {name: value.unflatten(0, decoded.patches.shape[:2]) for name, value in outputs.items()}

    def _run_head(
        self, decoder: HeadDecoder, head: Callable[[Tensor], Tensor], tokens: Tensor, grid: tuple[int, int]
    ) -> Tensor:
        """Decoder tokens (B * V, registers + h * w, 2 C) -> what the head makes of the patches, per view."""
        rope = self._rotary_table(grid, self.head_head_dim, tokens.device)
        patches = decoder(tokens, rope)[:, self.decoder_registers :]
        with torch.autocast(tokens.device.type, enabled=False):
            return head(patches.to(decoder.linear_out.weight.dtype))

    def reconstruct(self, prediction: GeometryPrediction) -> Reconstruction:
        """Points and cameras in the frame of the first view, whose choice changes nothing else.

        Confidence is the sigmoid of the network's logit, in (0, 1). The network gives no intrinsics: one focal length
        per view is fitted to its local points, with the principal point in the middle; it carries no gradient.
        """
        local_points = prediction['local_points']
        camera_to_world = relative_to_first(prediction['camera_to_world'])
        points = transform_points(camera_to_world[..., None, :, :], local_points)
        focal = focal_from_points(local_points.detach())
        return Reconstruction(
            points=points,
            local_points=local_points,
            confidence=prediction['confidence_logits'].sigmoid(),
            camera_to_world=camera_to_world,
            intrinsics=pinhole_intrinsics(focal, tuple(local_points.shape[2:4])),
            valid=torch.isfinite(points).all(-1),
        )

    def encoder_modules(self) -> list[str]:
        return ['encoder']

    def geometry_heads(self) -> list[str]:
        decoding = ('decoder', 'conditions')
        return [name for part, names in self.parts().items() if part not in decoding for name in names]
