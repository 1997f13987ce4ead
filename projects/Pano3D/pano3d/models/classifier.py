"""Query embedding -> class logits; the last class is 'no object'."""

from __future__ import annotations

from mmengine.model import BaseModule
from torch import Tensor, nn

from pano3d.registry import MODELS


@MODELS.register_module()
class LinearClassifier(BaseModule):
    """A learned dense layer (the paper's option 'dense classifier', +0.4 mIoU2D in domain).

    Args:
        dim: channels of a query.
        num_classes: classes of the label space, without 'no object'.
    """

    def __init__(self, *, dim: int = 256, num_classes: int, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.num_classes = num_classes
        self.linear = nn.Linear(dim, num_classes + 1)

    def forward(self, queries: Tensor) -> Tensor:
        """(..., C) to logits (..., num_classes + 1)."""
        return self.linear(queries)
