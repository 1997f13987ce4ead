"""Mean IoU and mean accuracy of labelled points: miou_points."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import reduce
from typing import Any

from pano3d.functional.confusion import SemanticCounts, class_iou, semantic_counts
from pano3d.registry import METRICS
from pano3d.structures import LabelSpace, PanopticMap

from .point_metric import PointMetric
from .protocol_metric import required
from .semantic_iou_metric import semantic_scores


@METRICS.register_module()
class PointSemanticMetric(PointMetric):
    """mIoU, mAcc and overall accuracy, fractions, of the labelled points of all scenes pooled.

    Reads the categories of `gt_panoptic` and `pred_panoptic` (N,) on the same points, or of views with a mesh. The
    rules are those of `SemanticIoUMetric`.

    Keys: `<label space>/miou_points/<geometry>/<mIoU | mAcc | Acc>`, and `.../IoU/<class>` if `per_class`.

    Args:
        label_space: name of a label space, path of its file, or the label space.
        geometry: 'gt_points', labels are of points; 'gt_depth' or 'own_geometry', labels of views are carried to the
            vertices of the mesh, see `PointMetric`.
        per_class: also report the IoU of every class.
        collect_device: where mmengine collects states of several processes, 'cpu' or 'gpu'.
    """

    def __init__(
        self,
        *,
        label_space: str | LabelSpace,
        geometry: str = 'gt_points',
        per_class: bool = False,
        collect_device: str = 'cpu',
    ) -> None:
        self.per_class = per_class
        super().__init__(
            label_space=label_space, protocol='miou_points', geometry=geometry, collect_device=collect_device
        )

    def point_state(self, sample: Mapping[str, Any]) -> SemanticCounts:
        predicted = required(sample, 'pred_panoptic', PanopticMap).category
        gt = self.gt_points(sample, predicted.shape).category.to(predicted.device)
        return semantic_counts(predicted=predicted, gt=gt, num_classes=self.label_space.num_classes).to('cpu')

    def summarize(self, states: list[SemanticCounts]) -> dict[str, float]:
        counts = reduce(operator.add, states)
        metrics = semantic_scores(counts)
        if self.per_class:
            iou = class_iou(counts).tolist()
            metrics |= {f'IoU/{name}': value for name, value in zip(self.label_space.names, iou, strict=True)}
        return metrics
