"""E_i, F_i -> G_i: what the segmentation sees of each patch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from pano3d.models.layers.initialization import init_relu_like
from pano3d.registry import MODELS


@MODELS.register_module()
class FeatureBridge(BaseModule):
    """Multi-layer perceptron (GELU) on the concatenated features of a patch (method, box G).

    Args:
        encoder_dim: channels of E.
        decoder_dim: channels of F.
        extra_dims: channels of further features by name, see `Pano3D`.
        hidden_dim: width between the two linear layers.
        out_dim: channels of G.
        features: which of them enter, None for all; ('encoder',) and ('decoder',) are the ablations 'encoder only' and
            'decoder only'.

    Raises:
        ValueError: on an unknown or empty choice of features.
    """

    def __init__(
        self,
        *,
        encoder_dim: int,
        decoder_dim: int,
        extra_dims: Mapping[str, int] | None = None,
        hidden_dim: int = 1024,
        out_dim: int = 256,
        features: Sequence[str] | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        dims = {'encoder': encoder_dim, 'decoder': decoder_dim} | dict(extra_dims or {})
        self.features = tuple(dims if features is None else features)
        if not self.features or not set(self.features) <= set(dims):
            raise ValueError(f'`features` must be a non-empty choice of {tuple(dims)}, got {self.features}')
        # They come from different depths of different networks: normalise each before they meet.
        self.norms = nn.ModuleDict({name: nn.LayerNorm(dims[name]) for name in self.features})
        self.mlp = nn.Sequential(
            nn.Linear(sum(dims[name] for name in self.features), hidden_dim), nn.GELU(), nn.Linear(hidden_dim, out_dim)
        )

    def init_weights(self) -> None:
        """Keep the variance of the normed features."""
        super().init_weights()
        init_relu_like(self)

    def forward(self, sources: Mapping[str, Tensor]) -> Tensor:
        """Features (B, V, N, C_s) by name, those of a dropped one may lack, to G (B, V, N, C).

        Raises:
            ValueError: if a feature is missing.
        """
        missing = [name for name in self.features if name not in sources]
        if missing:
            raise ValueError(f'the bridge needs the features {missing}, got {sorted(sources)}')
        return self.mlp(torch.cat([self.norms[name](sources[name]) for name in self.features], dim=-1))
