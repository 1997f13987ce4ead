"""Pi3 (Wang et al. 2025): all views at once and none of them special."""

from __future__ import annotations

from collections.abc import Sequence

from pano3d.models.layers import LinearHead
from pano3d.registry import MODELS

from .pi3_trunk import Pi3Trunk


@MODELS.register_module()
class Pi3Backbone(Pi3Trunk):
    """Pi3; the defaults are the released network, and state-dict names are the official ones.

    Permuting the views permutes what it puts out.

    Args:
        patch_size: pixels per patch side.
        position_grid: side of the encoder's square position table, in patches (image side 518 / 14).
        embed_dim: channels C of encoder and decoder; E has C channels, F has 2 C.
        mlp_ratio: hidden over outer width of all transformer MLPs.
        encoder_registers: register tokens per view in the encoder.
        encoder_depth: blocks of the encoder.
        encoder_heads: attention heads of the encoder.
        decoder_registers: register tokens per view in the decoder and the heads.
        decoder_depth: blocks of the decoder, in turn inside each view and over the scene; even.
        decoder_heads: attention heads of the decoder.
        layer_scale: initial LayerScale of the decoder.
        head_dim: channels of the blocks of the three heads.
        head_depth: blocks of each head.
        head_heads: attention heads of each head.
        dense_channels: channels of the tokens that the point and the confidence head read.
        camera_channels: channels of the tokens that the camera head reads.
        frozen: of 'decoder', 'point', 'camera' and 'confidence' those that are not trained and let no gradient through.
            The official training learns the confidence in a last stage of its own, with all else frozen.
        checkpoint_activations: recompute activations in the backward pass: less memory, more time.
        init_cfg: `dict(type='Pretrained', checkpoint=...)` loads an official file.

    Raises:
        ValueError: on an unknown part in `frozen`, an odd decoder, or sizes that the embeddings cannot divide.
    """

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
        frozen: Sequence[str] = ('confidence',),
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
        self.point_head = LinearHead(dim=dense_channels, out_channels=3, patch_size=patch_size)
        self.conf_head = LinearHead(dim=dense_channels, out_channels=1, patch_size=patch_size)
        self.freeze(frozen)
