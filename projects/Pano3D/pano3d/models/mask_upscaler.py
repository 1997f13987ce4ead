"""G_i -> M_i: dense features against which the queries draw their masks."""

from __future__ import annotations

from itertools import pairwise

from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from pano3d.models.layers.initialization import init_relu_like
from pano3d.registry import MODELS


@MODELS.register_module()
class MaskUpscaler(BaseModule):
    """Perceptron and pixel shuffle, `num_stages` times: each doubles the resolution (method, box M).

    Two stages bring stride 16 to 4, or 14 to 3.5.

    Args:
        dim: channels of G.
        out_dim: channels of M, those of the mask embedding of the queries.
        num_stages: how often the resolution doubles.
    """

    def __init__(
        self, *, dim: int = 256, out_dim: int = 256, num_stages: int = 2, init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg)
        widths = [dim] * num_stages + [out_dim]
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Linear(w_in, w_in), nn.GELU(), nn.Linear(w_in, 4 * w_out))
            for w_in, w_out in pairwise(widths)
        )

    def init_weights(self) -> None:
        """Keep the variance from G to M, so that masks have a gradient from the first step on."""
        super().init_weights()
        init_relu_like(self)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """G (B, V, h * w, C) on `grid` = (h, w) to M (B, V, C', f h, f w), f = 2 ** num_stages."""
        batch, views, _, channels = tokens.shape
        x = tokens.reshape(batch * views, *grid, channels)
        for stage in self.stages:
            x = F.pixel_shuffle(stage(x).permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        return x.permute(0, 3, 1, 2).unflatten(0, (batch, views))
