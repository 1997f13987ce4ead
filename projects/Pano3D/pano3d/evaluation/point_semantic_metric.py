"""Mean IoU and mean accuracy of labelled points: miou_points."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import reduce
from typing import Any

from pano3d.functional.confusion import SemanticCounts, class_iou, semantic_counts
from pano3d.registry import METRICS
from pano3d.structures import LabelSpace, PanopticMap

from .point_labels import gt_points
from .protocol_metric import ProtocolMetric, load_label_space, required
from .semantic_iou_metric import semantic_scores


@METRICS.register_module()
class PointSemanticMetric(ProtocolMetric):
    """mIoU, mAcc and overall accuracy, fractions, of the labelled points of all scenes pooled.

    Reads the categories of `gt_panoptic` and `pred_panoptic` (N,) on the same points. The rules are those of
    `SemanticIoUMetric`.

    Keys: `<label space>/miou_points/gt_points/<mIoU | mAcc | Acc>`, and `.../IoU/<class>` if `per_class`.

    Args:
        label_space: name of a label space, path of its file, or the label space.
        per_class: also report the IoU of every class.
        collect_device: where mmengine collects states of several processes, 'cpu' or 'gpu'.
    """

    def __init__(self, *, label_space: str | LabelSpace, per_class: bool = False, collect_device: str = 'cpu') -> None:
        self.label_space = load_label_space(label_space)
        self.per_class = per_class
        super().__init__(prefix=f'{self.label_space.name}/miou_points/gt_points', collect_device=collect_device)

    def scene_state(self, sample: Mapping[str, Any]) -> SemanticCounts:
        predicted = required(sample, 'pred_panoptic', PanopticMap).category
        gt = gt_points(sample, self.label_space, predicted.shape).category.to(predicted.device)
        return semantic_counts(predicted=predicted, gt=gt, num_classes=self.label_space.num_classes).to('cpu')

    def summarize(self, states: list[SemanticCounts]) -> dict[str, float]:
        counts = reduce(operator.add, states)
        metrics = semantic_scores(counts)
        if self.per_class:
            iou = class_iou(counts).tolist()
            metrics |= {f'IoU/{name}': value for name, value in zip(self.label_space.names, iou, strict=True)}
        return metrics
