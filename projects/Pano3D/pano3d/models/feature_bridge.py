"""E_i, F_i -> G_i: what the segmentation sees of each patch."""

from __future__ import annotations

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from pano3d.models.layers.initialization import init_relu_like
from pano3d.registry import MODELS

FEATURES = ('encoder', 'decoder')


@MODELS.register_module()
class FeatureBridge(BaseModule):
    """Multi-layer perceptron (GELU) on the concatenated encoder and decoder features of a patch (method, box G).

    Args:
        encoder_dim: channels of E.
        decoder_dim: channels of F.
        hidden_dim: width between the two linear layers.
        out_dim: channels of G.
        features: which features enter; dropping one is the ablation 'encoder only' or 'decoder only'.

    Raises:
        ValueError: on an unknown or empty choice of features.
    """

    def __init__(
        self,
        *,
        encoder_dim: int,
        decoder_dim: int,
        hidden_dim: int = 1024,
        out_dim: int = 256,
        features: tuple[str, ...] | list[str] = FEATURES,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if not features or not set(features) <= set(FEATURES):
            raise ValueError(f'`features` must be a non-empty choice of {FEATURES}, got {tuple(features)}')
        self.features = tuple(features)
        dims = {'encoder': encoder_dim, 'decoder': decoder_dim}
        # The two features come from different depths of different networks: normalise each before they meet.
        self.norms = nn.ModuleDict({name: nn.LayerNorm(dims[name]) for name in self.features})
        self.mlp = nn.Sequential(
            nn.Linear(sum(dims[name] for name in self.features), hidden_dim), nn.GELU(), nn.Linear(hidden_dim, out_dim)
        )

    def init_weights(self) -> None:
        """Keep the variance of the normed features."""
        super().init_weights()
        init_relu_like(self)

    def forward(self, encoded: Tensor, decoded: Tensor) -> Tensor:
        """E (B, V, N, C_e) and F (B, V, N, C_d) to G (B, V, N, C)."""
        given = {'encoder': encoded, 'decoder': decoded}
        return self.mlp(torch.cat([self.norms[name](given[name]) for name in self.features], dim=-1))
