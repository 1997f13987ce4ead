"""DUSt3R (Wang et al., CVPR 2024): two images at a time; scenes of more views are taken as pairs with the first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from pano3d.functional.focal import focal_from_points, pinhole_intrinsics
from pano3d.functional.point_regression import expand_points
from pano3d.functional.view_pairs import join_star, star_pairs
from pano3d.models.layers import CrocoEncoder, DecoderBlock, LinearHead, RotaryTable, frame_rotary_table, run_block
from pano3d.models.layers.croco import NORM_EPS, ROPE_BASE
from pano3d.models.loading import rename
from pano3d.registry import MODELS
from pano3d.structures import Reconstruction

from .base import Backbone, GeometryPrediction, Tokens
from .dust3r_heads import UPSAMPLING, PyramidHead

OFFICIAL_NAMES = {
    'patch_embed.': 'encoder.patch_embed.',
    'enc_blocks.': 'encoder.blocks.',
    'enc_norm.': 'encoder.norm.',
}
SECOND_DECODER = {'dec_blocks.': 'dec_blocks2.'}
HEADS = ('downstream_head1', 'downstream_head2')
LEVELS = 4


@MODELS.register_module()
class DUSt3RBackbone(Backbone):
    """DUSt3R; the defaults are DUSt3R_ViTLarge_BaseDecoder_512_dpt. The unit of length is unknown.

    A scene of V views is run as the 2 (V - 1) pairs of its first view, the reference, with every other one, in both
    directions, see `pano3d.functional.view_pairs`. Of a pair, both point maps are in the frame of its first camera. So
    the pair (0, i) places view i in the scene, and the mirrored pair (i, 0) gives view i in its own camera, from which
    its focal length and pose follow. Each image is encoded once.

    Compared with the official global alignment of all pairs, the star of pairs is one pass without optimisation, and
    loses: a view that does not overlap the reference has no support, even if others overlap both; errors of the views
    are not averaged out over pairs without the reference; and the scale of each pair hangs on its own noisy map of the
    reference.

    Args:
        patch_size: pixels per patch side; the 'dpt' head needs 16.
        encoder_dim: channels of the encoder.
        encoder_depth: blocks of the encoder.
        encoder_heads: attention heads of the encoder.
        decoder_dim: channels of both decoders.
        decoder_depth: blocks of each decoder.
        decoder_heads: attention heads of the decoders.
        mlp_ratio: hidden over outer width of the MLPs.
        head: 'dpt' or 'linear', the kind of the dense heads.
        dense_features: channels of the fusion of a 'dpt' head.
        dense_hidden: channels before its last convolution.
        dense_channels: channels of its four levels, fine to coarse.
        checkpoint_activations: recompute blocks and heads in the backward pass.
        init_cfg: `dict(type='Pretrained', checkpoint=...)` loads an official file.

    Raises:
        ValueError: if the sizes do not fit each other.
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
        head: str = 'dpt',
        dense_features: int = 256,
        dense_hidden: int = 128,
        dense_channels: Sequence[int] = (96, 192, 384, 768),
        checkpoint_activations: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.patch_size = patch_size
        self.encoder_dim = encoder_dim
        self.decoder_dim = decoder_dim
        self.head = head
        self.rope_dim = decoder_dim // decoder_heads
        self.checkpoint_activations = checkpoint_activations
        self._check_arguments(decoder_depth, tuple(dense_channels))
        self.encoder = CrocoEncoder(
            dim=encoder_dim,
            depth=encoder_depth,
            num_heads=encoder_heads,
            patch_size=patch_size,
            mlp_ratio=mlp_ratio,
            checkpoint_activations=checkpoint_activations,
        )
        self.decoder_embed = nn.Linear(encoder_dim, decoder_dim)

        def blocks() -> nn.ModuleList:
            return nn.ModuleList(
                DecoderBlock(dim=decoder_dim, num_heads=decoder_heads, mlp_ratio=mlp_ratio)
                for _ in range(decoder_depth)
            )

        self.dec_blocks = blocks()
        self.dec_blocks2 = blocks()
        self.dec_norm = nn.LayerNorm(decoder_dim, eps=NORM_EPS)
        # what the heads read, counted from 1; a linear head reads the last states alone
        middle = (2 * decoder_depth // 4, 3 * decoder_depth // 4) if head == 'dpt' else ()
        self.read_layers = (*middle, decoder_depth)
        for name in HEADS:
            self.add_module(name, self._make_head(dense_features, dense_hidden, tuple(dense_channels)))

    def _check_arguments(self, decoder_depth: int, dense_channels: tuple[int, ...]) -> None:
        if self.head not in ('dpt', 'linear'):
            raise ValueError(f"`head` must be 'dpt' or 'linear', got {self.head!r}")
        if self.head == 'linear':
            return
        if self.patch_size != UPSAMPLING:
            raise ValueError(f"the 'dpt' head needs patches of {UPSAMPLING} pixels, got {self.patch_size}")
        if len(dense_channels) != LEVELS or decoder_depth < 2:
            raise ValueError(
                f"the 'dpt' head needs {LEVELS} `dense_channels` and a `decoder_depth` of 2 or more, "
                f'got {dense_channels} and {decoder_depth}'
            )

    def _make_head(self, features: int, hidden: int, level_channels: tuple[int, int, int, int]) -> nn.Module:
        if self.head == 'linear':
            return LinearHead(dim=self.decoder_dim, out_channels=4, patch_size=self.patch_size)
        head = PyramidHead(
            encoder_dim=self.encoder_dim,
            decoder_dim=self.decoder_dim,
            features=features,
            hidden=hidden,
            level_channels=level_channels,
            out_channels=4,
            checkpoint_activations=self.checkpoint_activations,
        )
        return nn.ModuleDict({'dpt': head})

    def encode(self, images: Tensor) -> Tokens:
        """Normed patch tokens of every view, (B, V, h * w, C)."""
        self.check_images(images)
        patches = self.encoder(2 * images.flatten(0, 1) - 1)
        grid = images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size
        return Tokens(patches.unflatten(0, images.shape[:2]), grid)

    def decode(self, encoded: Tokens) -> Tokens:
        """Last decoder tokens of every view, normed, (B, V, h * w, C).

        View i has those of its pair (0, i); the reference has the mean of its own over these pairs.

        Returns:
            `layers`: what the heads read of the first images of all P pairs, (B, P, h * w, C) each, then the same of
            the second images.

        Raises:
            ValueError: if there are fewer than two views.
        """
        views = encoded.patches.shape[1]
        pairs = [Tokens(encoded.patches[:, index], encoded.grid) for index in star_pairs(views)]
        first, second = self.decode_pairs(*pairs)
        forward = slice(views - 1)
        reference = first.patches[:, forward].mean(1, keepdim=True)
        patches = torch.cat([reference, second.patches[:, forward]], dim=1)
        return Tokens(patches, encoded.grid, (*first.layers, *second.layers))

    def decode_pairs(
        self, first: Tokens, second: Tokens, *, keep: Sequence[int] | None = None
    ) -> tuple[Tokens, Tokens]:
        """Both decoders over P pairs of images, whose first and second images may have different sizes.

        Args:
            first: encoder tokens (B, P, h * w, C).
            second: encoder tokens (B, P, h' * w', C).
            keep: layers, counted from 1, whose states become `layers`; those that the heads read by default.

        Returns:
            The last states, normed; also where they are kept.
        """
        keep = self.read_layers if keep is None else keep
        ropes = [
            frame_rotary_table(side.grid, 0, self.rope_dim, ROPE_BASE, side.patches.device) for side in (first, second)
        ]
        states = [self.decoder_embed(side.patches.flatten(0, 1)) for side in (first, second)]
        recompute = self.checkpoint_activations and self.training
        kept: dict[int, list[Tensor]] = {}
        for layer, blocks in enumerate(zip(self.dec_blocks, self.dec_blocks2, strict=True), start=1):
            # both read the states before this layer
            states = [
                run_block(_attend, blocks[k], states[k], states[1 - k], ropes[k], ropes[1 - k], recompute=recompute)
                for k in range(2)
            ]
            if layer in keep:
                kept[layer] = states
        last = kept[len(self.dec_blocks)] = [self.dec_norm(state) for state in states]
        shape = first.patches.shape[:2]
        return tuple(
            Tokens(last[k].unflatten(0, shape), side.grid, tuple(kept[layer][k].unflatten(0, shape) for layer in keep))
            for k, side in enumerate((first, second))
        )

    def regress(self, encoded: Tokens, decoded: Tokens, image_size: tuple[int, int]) -> GeometryPrediction:
        """Both heads on all pairs, in full precision.

        Returns:
            For the P = 2 (V - 1) pairs (0, 1), ..., (0, V - 1), (1, 0), ..., (V - 1, 0):
            `pair_points` (B, P, 2, H, W, 3), the points of the first and of the second image of each pair, both in the
            frame of the pair's first camera; `pair_confidence` (B, P, 2, H, W), above 1.
        """
        points, confidence = zip(*self.regress_pairs(*self.split_pairs(encoded, decoded)), strict=True)
        return {'pair_points': torch.stack(points, dim=2), 'pair_confidence': torch.stack(confidence, dim=2)}

    def split_pairs(self, encoded: Tokens, decoded: Tokens) -> tuple[list[Tokens], list[Tokens]]:
        """Encoder and decoder tokens of the first and of the second images of all pairs."""
        half = len(decoded.layers) // 2
        layers = decoded.layers[:half], decoded.layers[half:]
        indices = star_pairs(encoded.patches.shape[1])
        return (
            [Tokens(encoded.patches[:, index], encoded.grid) for index in indices],
            [Tokens(states[-1], decoded.grid, states) for states in layers],
        )

    def regress_pairs(self, encoded: Sequence[Tokens], decoded: Sequence[Tokens]) -> list[tuple[Tensor, Tensor]]:
        """Points (B, P, H, W, 3) and confidence (B, P, H, W) of the first and of the second images of P pairs.

        Args:
            encoded: encoder tokens of the first and of the second images.
            decoded: what `decode_pairs` returns.
        """
        return [
            self._run_head(getattr(self, name), *sides) for name, *sides in zip(HEADS, encoded, decoded, strict=True)
        ]

    def _run_head(self, head: nn.Module, encoded: Tokens, decoded: Tokens) -> tuple[Tensor, Tensor]:
        with torch.autocast(encoded.patches.device.type, enabled=False):
            dtype = self.dec_norm.weight.dtype
            layers = [states.flatten(0, 1).to(dtype) for states in (encoded.patches, *decoded.layers)]
            maps = head(layers[-1], decoded.grid) if self.head == 'linear' else head['dpt'](layers, decoded.grid)
            maps = maps.unflatten(0, encoded.patches.shape[:2])
            return expand_points(maps[..., :3]), 1 + maps[..., 3].exp()

    def reconstruct(self, prediction: GeometryPrediction) -> Reconstruction:
        """Scene in the frame of the reference and the unit of its surest pair, see `join_star`.

        A view has the confidence of its points, and the reference the mean over its pairs. `points` and the moved
        `local_points` are two predictions that agree up to noise. Focal lengths are those of the local points.
        """
        confidence = prediction['pair_confidence']
        points, local_points, camera_to_world = join_star(prediction['pair_points'], confidence)
        pairs = confidence.shape[1] // 2
        reference = confidence[:, :pairs, 0].mean(1, keepdim=True)
        return Reconstruction(
            points=points,
            local_points=local_points,
            confidence=torch.cat([reference, confidence[:, :pairs, 1]], dim=1),
            camera_to_world=camera_to_world,
            intrinsics=pinhole_intrinsics(focal_from_points(local_points), tuple(points.shape[2:4])),
            valid=torch.isfinite(points).all(-1) & torch.isfinite(local_points).all(-1),
        )

    def encoder_modules(self) -> list[str]:
        return ['encoder']

    def geometry_heads(self) -> list[str]:
        return list(HEADS)

    def unused_weights(self) -> dict[str, str]:
        never = 'the official network never reads them'
        return {'mask_token': never} | {f'{name}.dpt.scratch.refinenet4.resConfUnit1.': never for name in HEADS}

    def translate_official(self, content: object, path: Path) -> dict[str, Tensor]:
        """Official names under ours; tensors that have two names may come under either or both.

        A file with one decoder fills both, as the official loader has it.

        Raises:
            ValueError: if two names of one tensor hold different values.
        """
        state = _join_twins(super().translate_official(content, path), path)
        if not any(name.startswith('dec_blocks2.') for name in state):
            state |= rename({n: v for n, v in state.items() if n.startswith('dec_blocks.')}, SECOND_DECODER)
        return rename(state, OFFICIAL_NAMES)


def _attend(block: DecoderBlock, x: Tensor, context: Tensor, rope: RotaryTable, context_rope: RotaryTable) -> Tensor:
    """One decoder block on tokens (N, L, C) of one image that see those (N, M, C) of the other."""
    return block(x, *block.project_context(context), rope, cross_ropes=(rope, context_rope))


def _join_twins(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The weights that official files hold as `layer_rn.{0..3}`, as `layer{1..4}_rn`, or as both, under the latter."""
    joined: dict[str, Tensor] = {}
    for name, value in state.items():
        new = re.sub(r'(\.scratch\.)layer_rn\.(\d)\.', lambda found: f'{found[1]}layer{int(found[2]) + 1}_rn.', name)
        if new in joined and not torch.equal(joined[new], value):
            raise ValueError(
                f'{path}: {new} and its second name `layer_rn` must hold one tensor, found two different ones; '
                'the file was changed after its training, drop one of the two names'
            )
        joined[new] = value
    return joined
