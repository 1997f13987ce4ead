"""MASt3R (Leroy et al., ECCV 2024)."""

from __future__ import annotations

import torch
from torch import nn

from pano3d.registry import MODELS

from .base import GeometryPrediction, Tokens
from .dust3r import HEADS, DUSt3RBackbone
from .dust3r_heads import DescriptorHead


@MODELS.register_module()
class MASt3RBackbone(DUSt3RBackbone):
    """MASt3R: DUSt3R in metres, whose 'dpt' heads also describe pixels for matching.

    The default is MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric; the arguments are those of `DUSt3RBackbone`. Its
    layout was read in the official code and in the recipe of its training; no official tensors were compared. The
    descriptors are computed on request alone, see `describe`. Nothing here trains them, so their weights want no
    gradients.

    Raises:
        ValueError: if the head is not 'dpt'.
    """

    descriptor_dim = 24

    def _make_head(self, features: int, hidden: int, level_channels: tuple[int, int, int, int]) -> nn.Module:
        if self.head != 'dpt':
            raise ValueError(f"`head` of MASt3RBackbone must be 'dpt', got {self.head!r}")
        head = super()._make_head(features, hidden, level_channels)
        describe = DescriptorHead(
            encoder_dim=self.encoder_dim,
            decoder_dim=self.decoder_dim,
            descriptor_dim=self.descriptor_dim,
            patch_size=self.patch_size,
        )
        head['head_local_features'] = describe.requires_grad_(False)
        return head

    def describe(self, encoded: Tokens, decoded: Tokens) -> GeometryPrediction:
        """Local features of both images of every pair, in the order of `regress`.

        Returns:
            `pair_descriptors` (B, P, 2, H, W, D) of unit length and `pair_descriptor_confidence` (B, P, 2, H, W),
            above 0.
        """
        descriptors, confidence = [], []
        for name, before, after in zip(HEADS, *self.split_pairs(encoded, decoded), strict=True):
            with torch.autocast(after.patches.device.type, enabled=False):
                tokens = (side.patches.flatten(0, 1).to(self.dec_norm.weight.dtype) for side in (before, after))
                found = getattr(self, name)['head_local_features'](*tokens, after.grid)
            descriptors.append(found[0].unflatten(0, after.patches.shape[:2]))
            confidence.append(found[1].unflatten(0, after.patches.shape[:2]))
        return {
            'pair_descriptors': torch.stack(descriptors, dim=2),
            'pair_descriptor_confidence': torch.stack(confidence, dim=2),
        }
