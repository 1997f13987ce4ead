"""Panoptic quality of labelled points: pq_points."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import Any

from pano3d.functional.panoptic_quality import PanopticCounts, point_panoptic_counts
from pano3d.registry import METRICS
from pano3d.structures import LabelSpace, PanopticMap

from .point_metric import PointMetric
from .protocol_metric import required
from .scene_panoptic_metric import COUNTING_RULES, panoptic_scores


@METRICS.register_module()
class PointPanopticMetric(PointMetric):
    """PQ, SQ and RQ, fractions, of scenes of labelled points, counts pooled over scenes.

    Reads `gt_panoptic` and `pred_panoptic` (N,) on the same points, or of views with a mesh.

    Keys: `<label space>/pq_points/<geometry>/<PQ | SQ | RQ>[_things | _stuff]`, and `.../PQ/<class>` if `per_class`.
    Choices other than the protocol's own are named: `pq_points_<rules>`, `pq_points_min<min_points>`.

    Args:
        label_space: name of a label space, path of its file, or the label space.
        geometry: 'gt_points', labels are of points; 'gt_depth' or 'own_geometry', labels of views are carried to the
            vertices of the mesh, see `PointMetric`.
        rules: 'mmdet3d', points on void are removed and absent classes score 0, or one of `ScenePanopticMetric`.
        min_points: with 'mmdet3d', unmatched segments with fewer points do not count.
        per_class: also report PQ of every class.
        collect_device: where mmengine collects states of several processes, 'cpu' or 'gpu'.
    """

    def __init__(
        self,
        *,
        label_space: str | LabelSpace,
        geometry: str = 'gt_points',
        rules: str = 'mmdet3d',
        min_points: int = 1,
        per_class: bool = False,
        collect_device: str = 'cpu',
    ) -> None:
        counting_rules: dict[str, Callable[..., PanopticCounts]] = {
            'mmdet3d': partial(point_panoptic_counts, min_points=min_points),
            **COUNTING_RULES,
        }
        if rules not in counting_rules:
            raise ValueError(f'`rules` must be one of {list(counting_rules)}, got {rules!r}')
        if min_points != 1 and rules != 'mmdet3d':
            raise ValueError(f"`min_points` belongs to the rules 'mmdet3d', got {min_points} with {rules!r}")
        self.count = counting_rules[rules]
        self.per_class = per_class
        name = 'pq_points' if rules == 'mmdet3d' else f'pq_points_{rules}'
        name += f'_min{min_points}' if min_points != 1 else ''
        super().__init__(label_space=label_space, protocol=name, geometry=geometry, collect_device=collect_device)

    def point_state(self, sample: Mapping[str, Any]) -> PanopticCounts:
        predicted = required(sample, 'pred_panoptic', PanopticMap)
        gt = self.gt_points(sample, predicted.shape).to(predicted.category.device)
        return self.count(
            predicted_category=predicted.category,
            predicted_instance=predicted.instance,
            gt_category=gt.category,
            gt_instance=gt.instance,
            is_stuff=self.label_space.is_stuff.to(gt.category.device),
        ).to('cpu')

    def summarize(self, states: list[PanopticCounts]) -> dict[str, float]:
        return panoptic_scores([reduce(operator.add, states)], self.label_space, per_class=self.per_class)
