"""The object memory: queries, and what they say of the views of a scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Queries:
    """The K queries of B scenes: the object memory of method, section 2.

    Args:
        features: Q, (B, K, C).
        position: added where attention compares, (B, K, C).
        anchors: (B, K, 3), where they are, in the frame and unit of `ViewFeatures.points`, never with gradient; None
            unless the decoder works with anchors.
    """

    features: Tensor
    position: Tensor
    anchors: Tensor | None = None

    def detach(self) -> Queries:
        """The same values without gradients."""
        return Queries(self.features.detach(), self.position.detach(), self.anchors)


@dataclass(frozen=True)
class QueryPrediction:
    """What the K queries say after one layer.

    Args:
        classes: logits (B, K, C + 1), the last one is 'no object'; (B, P, K, C + 1) of P phases, see `of_phases`.
        masks: logits (B, K, V, h, w).
        extents: (B, V, 2), rows and columns of each view's own part of the masks, int64, in the top left corner; None
            where all is its own.
    """

    classes: Tensor
    masks: Tensor
    extents: Tensor | None = None

    def float(self) -> QueryPrediction:
        """The same in single precision."""
        return QueryPrediction(self.classes.float(), self.masks.float(), self.extents)

    @staticmethod
    def of_phases(phases: Sequence[QueryPrediction]) -> QueryPrediction:
        """One prediction of the same queries in P phases, on one canvas: classes (B, P, K, C + 1), masks along V."""
        extents = None
        if any(phase.extents is not None for phase in phases):
            own = [phase.extents if phase.extents is not None else phase.whole_canvas() for phase in phases]
            extents = torch.cat(own, dim=1)
        return QueryPrediction(
            torch.stack([phase.classes for phase in phases], dim=1),
            torch.cat([phase.masks for phase in phases], dim=2),
            extents,
        )

    def whole_canvas(self) -> Tensor:
        """`extents` of views that all fill the canvas."""
        batch, _, views, *canvas = self.masks.shape
        return torch.tensor(canvas, device=self.masks.device).expand(batch, views, 2)

    def __getitem__(self, scene: int) -> QueryPrediction:
        """One scene of the batch, without the batch dimension."""
        return QueryPrediction(
            self.classes[scene], self.masks[scene], None if self.extents is None else self.extents[scene]
        )


@dataclass(frozen=True)
class HeadOutput:
    """What a head puts out for a batch of scenes.

    Args:
        queries: the refined queries.
        predictions: one before the first layer and one after each, the last one final.
    """

    queries: Queries
    predictions: list[QueryPrediction]
