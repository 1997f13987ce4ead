"""Pi3X: Pi3 with convolutional heads, metric scale, and geometry that may be known beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from pano3d.models.layers import (
    ConvHead,
    DinoEncoder,
    PatchEmbed,
    PoseInjection,
    RotaryTable,
    grid_positions,
    rotary_table,
    run_block,
)
from pano3d.models.loading import rename
from pano3d.registry import MODELS

from .base import GeometryPrediction, Tokens
from .pi3_heads import MetricDecoder
from .pi3_trunk import NORM_EPS, ROPE_BASE, Pi3Trunk
from .pi3x_conditions import ConditionedTokens, GeometryConditions


@MODELS.register_module()
class Pi3XBackbone(Pi3Trunk):
    """Pi3X; the defaults are the released network. Points and cameras are in metres.

    Names are the official ones, but for the metric head's cross-attention, see `translate_official`.

    Args:
        patch_size: pixels per patch side.
        position_grid: side of the encoders' square position tables, in patches (image side 518 / 14).
        embed_dim: channels C of encoders and decoder; E has C channels, F has 2 C.
        mlp_ratio: hidden over outer width of all transformer MLPs.
        encoder_registers: register tokens per view in the encoders.
        encoder_depth: blocks of the image encoder and of the depth encoder.
        encoder_heads: attention heads of the encoders.
        decoder_registers: register tokens per view in the decoder and the heads.
        decoder_depth: blocks of the decoder, in turn inside each view and over the scene; even.
        decoder_heads: attention heads of the decoder.
        layer_scale: initial LayerScale of the decoder.
        head_dim: channels of the blocks of the point, confidence and camera heads.
        head_depth: blocks of each of these heads.
        head_heads: attention heads of each of these heads.
        dense_channels: channels of the tokens that the point and the confidence head read.
        camera_channels: channels of the tokens that the camera head reads.
        stage_channels: channels of the stages of the dense heads, each of twice the size of the one before.
        residual_blocks: residual blocks per stage.
        output_features: channels before the last convolution of the dense heads.
        metric_dim: channels of the metric head.
        metric_depth: blocks of the metric head.
        metric_heads: attention heads of the metric head.
        metric_channels: channels of the token that the metric scale is read from.
        multimodal: build what reads `GeometryConditions`; without it those weights of a file are left out.
        pose_layers: decoder blocks after which known poses come in; what a shorter decoder lacks is ignored.
        frozen: of 'decoder', 'point', 'camera', 'confidence', 'metric' and 'conditions' those that are not trained. All
            but the last let no gradient through either.
        checkpoint_activations: recompute activations in the backward pass: less memory, more time.
        init_cfg: `dict(type='Pretrained', checkpoint=...)` loads an official file.

    Raises:
        ValueError: on an unknown part in `frozen`, an odd decoder, or sizes that embeddings or norms cannot divide.
    """

    largest_log_depth = 15.0

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
        layer_scale: float = 0.01,
        head_dim: int = 1024,
        head_depth: int = 5,
        head_heads: int = 16,
        dense_channels: int = 1024,
        camera_channels: int = 512,
        stage_channels: Sequence[int] = (256, 128, 64),
        residual_blocks: int = 2,
        output_features: int = 32,
        metric_dim: int = 512,
        metric_depth: int = 5,
        metric_heads: int = 8,
        metric_channels: int = 512,
        multimodal: bool = True,
        pose_layers: Sequence[int] = (1, 9, 17, 25, 33),
        frozen: Sequence[str] = ('confidence', 'metric', 'conditions'),
        checkpoint_activations: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(
            patch_size=patch_size,
            position_grid=position_grid,
            embed_dim=embed_dim,
            mlp_ratio=mlp_ratio,
            encoder_registers=encoder_registers,
            encoder_depth=encoder_depth,
            encoder_heads=encoder_heads,
            decoder_registers=decoder_registers,
            decoder_depth=decoder_depth,
            decoder_heads=decoder_heads,
            layer_scale=layer_scale,
            head_dim=head_dim,
            head_depth=head_depth,
            head_heads=head_heads,
            dense_channels=dense_channels,
            camera_channels=camera_channels,
            checkpoint_activations=checkpoint_activations,
            init_cfg=init_cfg,
        )
        for name, out_channels in (('point_head', (2, 1)), ('conf_head', (1,))):
            head = ConvHead(
                dim=dense_channels,
                stage_channels=tuple(stage_channels),
                residual_blocks=residual_blocks,
                output_features=output_features,
                out_channels=out_channels,
                patch_size=patch_size,
                checkpoint_activations=checkpoint_activations,
            )
            self.add_module(name, head)
        if metric_dim % (4 * metric_heads):
            raise ValueError(
                f'the metric head needs channels that are a multiple of 4 * heads, got {metric_dim} and {metric_heads}'
            )
        self.metric_head_dim = metric_dim // metric_heads
        self.metric_token = nn.Parameter(torch.zeros(1, 1, self.decoder_dim))
        nn.init.trunc_normal_(self.metric_token, std=0.02)
        self.metric_decoder = MetricDecoder(
            in_channels=self.decoder_dim,
            dim=metric_dim,
            depth=metric_depth,
            num_heads=metric_heads,
            mlp_ratio=mlp_ratio,
            out_channels=metric_channels,
            checkpoint_activations=checkpoint_activations,
        )
        self.metric_head = nn.Linear(metric_channels, 1)
        self.multimodal = multimodal
        self.pose_layers = [layer for layer in pose_layers if layer < decoder_depth]
        self.unreached_poses = [index for index, layer in enumerate(pose_layers) if layer >= decoder_depth]
        if multimodal:
            self.depth_encoder = DinoEncoder(
                dim=embed_dim,
                depth=encoder_depth,
                num_heads=encoder_heads,
                patch_size=patch_size,
                position_grid=position_grid,
                register_tokens=encoder_registers,
                mlp_ratio=mlp_ratio,
                in_channels=2,
                mask_token=False,
                checkpoint_activations=checkpoint_activations,
            )
            self.depth_emb = nn.Parameter(torch.zeros(1, 1, embed_dim))
            self.ray_embed = PatchEmbed(dim=embed_dim, patch_size=patch_size, in_channels=2)
            self.pose_inject_blk = nn.ModuleList(
                PoseInjection(
                    dim=embed_dim,
                    num_heads=decoder_heads,
                    mlp_ratio=mlp_ratio,
                    norm_eps=NORM_EPS,
                    layer_scale=layer_scale,
                )
                for _ in self.pose_layers
            )
        self.freeze(frozen)

    def parts(self) -> dict[str, tuple[str, ...]]:
        conditions = ('depth_encoder', 'depth_emb', 'ray_embed', 'pose_inject_blk')
        return super().parts() | {
            'metric': ('metric_token', 'metric_decoder', 'metric_head'),
            'conditions': conditions if self.multimodal else (),
        }

    def encode(self, images: Tensor, conditions: GeometryConditions | None = None) -> Tokens:
        """Normed DINOv2 patch tokens of every view, (B, V, h * w, C); conditions travel beside them to `decode`.

        Raises:
            ValueError: if conditions do not fit the images, or the network was built without what reads them.
        """
        encoded = super().encode(images)
        if conditions is None:
            return encoded
        if not self.multimodal:
            raise ValueError('this Pi3X was built without what reads conditions; set `multimodal=True`')
        conditions.check(images)
        world_to_camera, posed = (None, None) if conditions.camera_to_world is None else conditions.relative_poses()
        return ConditionedTokens(
            **vars(encoded), added=self._embed(conditions, images), world_to_camera=world_to_camera, posed=posed
        )

    def _embed(self, conditions: GeometryConditions, images: Tensor) -> Tensor | None:
        """Depth and rays as tokens (B, V, h * w, C); None without either."""
        added = None
        if conditions.depth is not None:
            depth, _ = conditions.known_depth()
            channels = torch.stack([depth, (depth > 0).to(depth.dtype)], dim=2).flatten(0, 1)
            tokens = self.depth_encoder(channels)[:, self.depth_encoder.prefix_tokens :] + self.depth_emb
            added = only(conditions.depth_views, tokens.unflatten(0, images.shape[:2]))
        if conditions.intrinsics is not None or conditions.rays is not None:
            tokens = self.ray_embed(conditions.ray_map(tuple(images.shape[-2:])).flatten(0, 1))
            tokens = only(conditions.ray_views, tokens.unflatten(0, images.shape[:2]))
            added = tokens if added is None else added + tokens
        return added

    def decode(self, encoded: Tokens) -> Tokens:
        """As `Pi3Trunk.decode`; what is known of the geometry comes in before and between the blocks."""
        if isinstance(encoded, ConditionedTokens) and encoded.added is not None:
            encoded = replace(encoded, patches=encoded.patches + encoded.added, added=None)
        return super().decode(encoded)

    def after_block(self, index: int, x: Tensor, encoded: Tokens) -> Tensor:
        """Let known poses into the patch tokens."""
        if index not in self.pose_layers or not isinstance(encoded, ConditionedTokens) or encoded.posed is None:
            return x
        inject = self.pose_inject_blk[self.pose_layers.index(index)]
        rope = image_rotary_table(encoded.grid, self.decoder_head_dim // 2, x.device)
        rope = RotaryTable(*(entry.repeat(x.shape[1], 1) for entry in rope))
        special, patches = x.split([self.decoder_registers, x.shape[2] - self.decoder_registers], dim=2)
        recompute = self.checkpoint_activations and self.training
        added = run_block(inject, patches, encoded.world_to_camera, encoded.posed, rope, recompute=recompute)
        return torch.cat([special, patches + added], dim=2)

    def regress(self, encoded: Tokens, decoded: Tokens, image_size: tuple[int, int]) -> GeometryPrediction:
        """As `Pi3Trunk.regress`, but in metres; `log_metric` (B,) is the logarithm of the scale that made them so."""
        prediction = super().regress(encoded, decoded, image_size)
        with self.learning('metric'):
            log_metric = self._log_metric(decoded)
        metric = log_metric.exp()[:, None, None, None]
        rotation, translation = prediction['camera_to_world'].split([3, 1], dim=-1)
        scale = torch.cat([metric.expand(-1, -1, 3, -1), torch.ones_like(metric)], dim=2)
        return prediction | {
            'local_points': prediction['local_points'] * metric[..., None],
            'camera_to_world': torch.cat([rotation, translation * scale], dim=-1),
            'log_metric': log_metric,
        }

    def _log_metric(self, decoded: Tokens) -> Tensor:
        """Logarithm (B,) of metres per unit of the other heads."""
        tokens = decoded.layers[0]
        batch, views = tokens.shape[:2]
        frame_rope = self._rotary_table(decoded.grid, self.metric_head_dim, tokens.device)
        scene_rope = RotaryTable(*(entry.repeat(views, 1) for entry in frame_rope))
        query_rope = RotaryTable(*(entry[:1] for entry in frame_rope))  # where the register tokens are
        queries = self.metric_token.expand(batch, -1, -1)
        summary = self.metric_decoder(queries, tokens.flatten(1, 2), (query_rope, scene_rope))
        with torch.autocast(tokens.device.type, enabled=False):
            return self.metric_head(summary.to(self.metric_head.weight.dtype)).flatten()

    def unused_weights(self) -> dict[str, str]:
        reasons = super().unused_weights()
        if not self.multimodal:
            parts = ('depth_encoder.', 'depth_emb', 'ray_embed.', 'pose_inject_blk.')
            return reasons | dict.fromkeys(parts, '`multimodal` is off')
        return reasons | {f'pose_inject_blk.{index}.': 'the decoder is shorter' for index in self.unreached_poses}

    def translate_official(self, content: object, path: Path) -> dict[str, Tensor]:
        """The official names, but with those of the shared cross-attention: `q_proj` becomes `projq`, and so on."""
        blocks = [f'metric_decoder.blocks.{index}.cross_attn.' for index in range(len(self.metric_decoder.blocks))]
        names = {f'{block}{letter}_proj.': f'{block}proj{letter}.' for block in blocks for letter in 'qkv'}
        return rename(super().translate_official(content, path), names)


def only(views: Tensor | None, tokens: Tensor) -> Tensor:
    """Tokens (B, V, L, C), zero but for some views (B, V), bool; None keeps all."""
    return tokens if views is None else torch.where(views[..., None, None], tokens, 0)


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # a table first made in inference mode could not be used in training later
def image_rotary_table(grid: tuple[int, int], head_dim: int, device: torch.device) -> RotaryTable:
    """Table of one view for the pose injection: columns before rows, from (0, 0), turning backwards."""
    return rotary_table(-grid_positions(*grid, device=device).flip(-1), head_dim, base=ROPE_BASE)
