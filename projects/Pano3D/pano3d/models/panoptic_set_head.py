"""The panoptic head: from features of all views to a set of masks with classes."""

from __future__ import annotations

from mmengine.model import BaseModule
from torch import Tensor

from pano3d.registry import MODELS

from .query_decoder import QueryPrediction


@MODELS.register_module()
class PanopticSetHead(BaseModule):
    """Bridge, upscaler, query decoder and classifier (method, section 1); knows no backbone.

    Args:
        bridge: config of the feature bridge, E and F -> G.
        upscaler: config of the mask upscaler, G -> M.
        decoder: config of the query decoder, learned queries and G -> Q.
        classifier: config of the classifier, Q -> class logits with 'no object' last.
    """

    def __init__(
        self, *, bridge: dict, upscaler: dict, decoder: dict, classifier: dict, init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg)
        self.bridge = MODELS.build(bridge)
        self.upscaler = MODELS.build(upscaler)
        self.decoder = MODELS.build(decoder)
        self.classifier = MODELS.build(classifier)

    @property
    def num_classes(self) -> int:
        """Classes without 'no object'."""
        return self.classifier.num_classes

    def forward(self, encoded: Tensor, decoded: Tensor, grid: tuple[int, int]) -> list[QueryPrediction]:
        """E (B, V, N, C_e), F (B, V, N, C_d) on `grid` to one prediction per decoder stage, the last one final."""
        tokens = self.bridge(encoded, decoded)  # G_i
        mask_features = self.upscaler(tokens, grid)  # M_i
        _, predictions = self.decoder(tokens, mask_features, grid, self.classifier)  # Q, C(Q), Q . M_i
        return predictions
