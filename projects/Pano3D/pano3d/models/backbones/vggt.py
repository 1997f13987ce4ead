"""VGGT (Wang et al., CVPR 2025): all views at once, alternating attention inside each view and over the scene."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from pano3d.functional.geometry import invert_rigid, transform_points, unproject
from pano3d.functional.pose_encoding import decode_cameras
from pano3d.models.layers import Block, DinoEncoder, RotaryTable, frame_rotary_table, run_block
from pano3d.registry import MODELS
from pano3d.structures import Reconstruction

from .base import Backbone, GeometryPrediction, Tokens
from .vggt_heads import CameraHead, DenseHead

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
ROPE_BASE = 100.0
HEADS = ('camera', 'depth', 'point')


class Aggregator(nn.Module):
    """Patch encoder, and alternating blocks over [camera token, register tokens, patch tokens] of every view.

    Args:
        patch_embed: the monocular encoder.
        dim: channels C.
        depth: pairs of a frame block and a global block.
        num_heads: attention heads.
        mlp_ratio: hidden over outer width of the MLPs.
        register_tokens: registers per view, besides the camera token.
        layer_scale: initial value of LayerScale.
        checkpoint_activations: recompute the blocks in the backward pass.
    """

    def __init__(
        self,
        *,
        patch_embed: DinoEncoder,
        dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        register_tokens: int,
        layer_scale: float,
        checkpoint_activations: bool,
    ) -> None:
        super().__init__()
        self.special_tokens = 1 + register_tokens
        self.head_dim = dim // num_heads
        if dim % (4 * num_heads):
            raise ValueError(
                f'the aggregator needs channels that are a multiple of 4 * heads, got {dim} and {num_heads}'
            )
        self.checkpoint_activations = checkpoint_activations
        self.patch_embed = patch_embed
        # slot 0 marks the first view, which is the reference; slot 1 all others
        self.camera_token = nn.Parameter(torch.zeros(1, 2, 1, dim))
        self.register_token = nn.Parameter(torch.zeros(1, 2, register_tokens, dim))
        for token in (self.camera_token, self.register_token):
            nn.init.trunc_normal_(token, std=0.02)

        def blocks() -> nn.ModuleList:
            return nn.ModuleList(
                Block(
                    dim=dim,
                    num_heads=num_heads,
                    mlp_ratio=mlp_ratio,
                    norm_eps=1e-5,
                    qk_norm=True,
                    layer_scale=layer_scale,
                )
                for _ in range(depth)
            )

        self.frame_blocks = blocks()
        self.global_blocks = blocks()

    def forward(self, patches: Tensor, grid: tuple[int, int], keep: Collection[int]) -> dict[int, Tensor]:
        """Aggregate patch tokens (B, V, h * w, C) of all views.

        Returns:
            For each index in `keep` the states after that frame block and that global block, concatenated:
            (B, V, special_tokens + h * w, 2 C).
        """
        batch, views = patches.shape[:2]
        special = torch.cat([self.camera_token, self.register_token], dim=2)
        special = torch.cat([special[:, :1], special[:, 1:].expand(-1, views - 1, -1, -1)], dim=1)
        x = torch.cat([special.expand(batch, -1, -1, -1), patches], dim=2)  # (B, V, P, C)
        frame_rope = frame_rotary_table(grid, self.special_tokens, self.head_dim, ROPE_BASE, x.device)
        scene_rope = RotaryTable(*(entry.repeat(views, 1) for entry in frame_rope))
        recompute = self.checkpoint_activations and self.training
        kept = {}
        for index, (frame_block, global_block) in enumerate(zip(self.frame_blocks, self.global_blocks, strict=True)):
            within = run_block(frame_block, x.flatten(0, 1), frame_rope, recompute=recompute).view_as(x)
            x = run_block(global_block, within.flatten(1, 2), scene_rope, recompute=recompute).view_as(x)
            if index in keep:
                kept[index] = torch.cat([within, x], dim=-1)
        return kept


@MODELS.register_module()
class VGGTBackbone(Backbone):
    """VGGT with its camera and dense heads; the defaults are VGGT-1B. State-dict names are the official ones.

    The official tracking head is left out.

    Args:
        patch_size: pixels per patch side.
        position_grid: side of the encoder's square position table, in patches (image side 518 / 14).
        embed_dim: channels C of encoder and aggregator; E has C channels, F has 2 C.
        mlp_ratio: hidden over outer width of all transformer MLPs.
        register_tokens: register tokens per view, in encoder and aggregator.
        encoder_depth: blocks of the encoder.
        encoder_heads: attention heads of the encoder.
        decoder_depth: pairs of frame and global blocks of the aggregator.
        decoder_heads: attention heads of the aggregator.
        layer_scale: initial LayerScale of the aggregator.
        heads: 'camera' with 'depth' or 'point' or both. A head that no loss reads should be left out.
        camera_depth: blocks of the camera head.
        camera_heads: attention heads of the camera head.
        camera_iterations: refinements of the camera head.
        dense_layers: aggregator outputs that the dense heads read, fine to coarse.
        dense_channels: their channels inside the dense heads.
        dense_features: channels of the fusion in the dense heads.
        points_from: 'depth' unprojects the depth with the predicted cameras (the official advice), 'point' takes the
            point head.
        checkpoint_activations: recompute activations in the backward pass: less memory, more time.
        init_cfg: `dict(type='Pretrained', checkpoint=...)` loads an official file.

    Raises:
        ValueError: on unknown or missing heads, layers that do not exist, or sizes that the embeddings cannot divide.
    """

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
        layer_scale: float = 0.01,
        heads: Sequence[str] = HEADS,
        camera_depth: int = 4,
        camera_heads: int = 16,
        camera_iterations: int = 4,
        dense_layers: Sequence[int] = (4, 11, 17, 23),
        dense_channels: Sequence[int] = (256, 512, 1024, 1024),
        dense_features: int = 256,
        points_from: str = 'depth',
        checkpoint_activations: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.patch_size = patch_size
        self.encoder_dim = embed_dim
        self.decoder_dim = 2 * embed_dim
        self.heads = tuple(heads)
        self.dense_layers = tuple(dense_layers)
        self.points_from = points_from
        self._check_arguments(decoder_depth, tuple(dense_channels), dense_features)
        self.last_layer = decoder_depth - 1
        self.register_buffer('image_mean', torch.tensor(IMAGE_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer('image_std', torch.tensor(IMAGE_STD).view(3, 1, 1), persistent=False)
        patch_embed = DinoEncoder(
            dim=embed_dim,
            depth=encoder_depth,
            num_heads=encoder_heads,
            patch_size=patch_size,
            position_grid=position_grid,
            register_tokens=register_tokens,
            mlp_ratio=mlp_ratio,
            checkpoint_activations=checkpoint_activations,
        )
        self.aggregator = Aggregator(
            patch_embed=patch_embed,
            dim=embed_dim,
            depth=decoder_depth,
            num_heads=decoder_heads,
            mlp_ratio=mlp_ratio,
            register_tokens=register_tokens,
            layer_scale=layer_scale,
            checkpoint_activations=checkpoint_activations,
        )
        self.camera_head = CameraHead(
            dim=self.decoder_dim,
            depth=camera_depth,
            num_heads=camera_heads,
            mlp_ratio=mlp_ratio,
            iterations=camera_iterations,
        )
        dense_head = partial(
            DenseHead,
            dim=self.decoder_dim,
            features=dense_features,
            level_channels=tuple(dense_channels),
            patch_size=patch_size,
            checkpoint_activations=checkpoint_activations,
        )
        if 'depth' in self.heads:
            self.depth_head = dense_head(out_channels=2)
        if 'point' in self.heads:
            self.point_head = dense_head(out_channels=4)

    def _check_arguments(self, decoder_depth: int, dense_channels: tuple[int, ...], dense_features: int) -> None:
        unknown = sorted(set(self.heads) - set(HEADS))
        if unknown:
            raise ValueError(f'`heads` may hold {list(HEADS)}, got {unknown}')
        if self.points_from not in ('depth', 'point'):
            raise ValueError(f"`points_from` must be 'depth' or 'point', got {self.points_from!r}")
        missing = [name for name in ('camera', self.points_from) if name not in self.heads]
        if missing:
            raise ValueError(f'`heads` must contain {missing} to reconstruct, got {list(self.heads)}')
        if len(self.dense_layers) != 4 or not all(0 <= layer < decoder_depth for layer in self.dense_layers):
            raise ValueError(
                f'`dense_layers` must be 4 indices below the decoder depth {decoder_depth}, got {self.dense_layers}'
            )
        if len(dense_channels) != 4 or any(channels % 4 for channels in dense_channels) or dense_features % 8:
            raise ValueError(
                '`dense_channels` must be 4 multiples of 4 and `dense_features` a multiple of 8, for the position '
                f'embeddings; got {dense_channels} and {dense_features}'
            )

    def encode(self, images: Tensor) -> Tokens:
        """Normed DINOv2 patch tokens of every view, (B, V, h * w, C)."""
        self.check_images(images)
        normalised = (images.flatten(0, 1) - self.image_mean) / self.image_std
        encoder = self.aggregator.patch_embed
        patches = encoder(normalised)[:, encoder.prefix_tokens :]
        grid = images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size
        return Tokens(patches.unflatten(0, images.shape[:2]), grid)

    def decode(self, encoded: Tokens) -> Tokens:
        """Last aggregated tokens (B, V, h * w, 2 C); `layers`: what the dense heads read, then the last, all tokens."""
        aggregated = self.aggregator(encoded.patches, encoded.grid, keep={*self.dense_layers, self.last_layer})
        last = aggregated[self.last_layer]
        layers = (*(aggregated[layer] for layer in self.dense_layers), last)
        return Tokens(last[:, :, self.aggregator.special_tokens :], encoded.grid, layers)

    def regress(self, encoded: Tokens, decoded: Tokens, image_size: tuple[int, int]) -> GeometryPrediction:
        """Heads in full precision.

        Returns:
            `pose_encodings` (iterations, B, V, 9), see `pano3d.functional.pose_encoding`; `depth` (B, V, H, W) and
            `depth_confidence`; `points` (B, V, H, W, 3) in the frame of the first view and `point_confidence`.
            Confidences are above 1. Only what the heads give.
        """
        *dense, last = decoded.layers
        prediction: GeometryPrediction = {}
        with torch.autocast(last.device.type, enabled=False):
            camera_tokens = last[:, :, 0].to(self.camera_head.token_norm.weight.dtype)
            prediction['pose_encodings'] = self.camera_head(camera_tokens)
            if 'depth' in self.heads:
                maps = self._run_dense(self.depth_head, dense, image_size)
                prediction['depth'] = maps[..., 0].exp()
                prediction['depth_confidence'] = 1 + maps[..., 1].exp()
            if 'point' in self.heads:
                maps = self._run_dense(self.point_head, dense, image_size)
                prediction['points'] = maps[..., :3].sign() * maps[..., :3].abs().expm1()
                prediction['point_confidence'] = 1 + maps[..., 3].exp()
        return prediction

    def _run_dense(self, head: DenseHead, layers: list[Tensor], image_size: tuple[int, int]) -> Tensor:
        """Aggregator outputs (B, V, P, 2 C) -> raw maps (B, V, H, W, channels)."""
        patches = [layer[:, :, self.aggregator.special_tokens :].flatten(0, 1) for layer in layers]
        maps = head([tokens.to(head.norm.weight.dtype) for tokens in patches], image_size)
        return maps.unflatten(0, layers[0].shape[:2])

    def reconstruct(self, prediction: GeometryPrediction) -> Reconstruction:
        """Cameras of the last iteration, points as `points_from` says.

        The frame is the network's world, which training ties to the first camera; it is not enforced here.
        """
        source = prediction['depth' if self.points_from == 'depth' else 'points']  # (B, V, H, W, ...)
        world_to_camera, intrinsics = decode_cameras(prediction['pose_encodings'][-1], tuple(source.shape[2:4]))
        camera_to_world = invert_rigid(world_to_camera)
        if self.points_from == 'depth':
            local_points = unproject(source, intrinsics)
            points = transform_points(camera_to_world[..., None, :, :], local_points)
        else:
            points = source
            local_points = transform_points(world_to_camera[..., None, :, :], points)
        return Reconstruction(
            points=points,
            local_points=local_points,
            confidence=prediction[f'{self.points_from}_confidence'],
            camera_to_world=camera_to_world,
            intrinsics=intrinsics,
            valid=torch.isfinite(points).all(-1),
        )

    def encoder_modules(self) -> list[str]:
        return ['aggregator.patch_embed']

    def geometry_heads(self) -> list[str]:
        return [f'{name}_head' for name in HEADS if name == 'camera' or name in self.heads]

    def unused_weights(self) -> dict[str, str]:
        reasons = {f'{name}_head.': f"`heads` has no '{name}'" for name in HEADS if name not in self.heads}
        return {'track_head.': 'Pano3D does not track points', **reasons}
