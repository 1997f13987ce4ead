"""Which classes are taken for which: the confusion of all pixels, for reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pano3d.functional.confusion import confusion_matrix
from pano3d.structures import LabelSpace

from .protocol_metric import ProtocolMetric, gt_views
from .semantic_iou_metric import predicted_category


class ConfusionCounter(ProtocolMetric):
    """Counts pairs of true and predicted class; no score of its own, so it is not registered.

    Args:
        label_space: the classes.
    """

    def __init__(self, *, label_space: LabelSpace) -> None:
        self.label_space = label_space
        super().__init__(prefix=f'{label_space.name}/confusion/pixels', collect_device='cpu')

    def scene_state(self, sample: Mapping[str, Any]) -> Tensor:
        """Pairs that occur, (P, 3) int64: true class, predicted class, pixels; C stands for void."""
        predicted = predicted_category(sample, self.label_space, 'semantic')
        gt = gt_views(sample, self.label_space).category.to(predicted.device)
        matrix = confusion_matrix(predicted=predicted, gt=gt, num_classes=self.label_space.num_classes).cpu()
        pairs = matrix.nonzero()
        return torch.cat([pairs, matrix[pairs[:, 0], pairs[:, 1], None]], dim=1)

    def summarize(self, states: list[Tensor]) -> dict[str, float]:
        return {}

    def matrix(self, states: list[Tensor]) -> Tensor:
        """(C + 1, C + 1) int64, rows: ground truth, columns: prediction, the last of each: void."""
        size = self.label_space.num_classes + 1
        matrix = torch.zeros(size, size, dtype=torch.int64)
        for pairs in states:
            matrix.index_put_((pairs[:, 0], pairs[:, 1]), pairs[:, 2], accumulate=True)
        return matrix
