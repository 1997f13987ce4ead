"""Instance AP of labelled points: ap_points, ap_points_class_agnostic."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from pano3d.functional.average_precision import (
    InstanceMatches,
    average_precision,
    check_proposals,
    point_instance_matches,
)
from pano3d.registry import METRICS
from pano3d.structures import LabelSpace, MaskProposals, PanopticMap

from .point_metric import PointMetric
from .predicted_segments import predicted_proposals


@METRICS.register_module()
class PointInstanceMetric(PointMetric):
    """AP, AP50 and AP25, fractions, of scored masks on points, by the rules of the ScanNet benchmark.

    Reads `gt_panoptic` (N,) and `pred_proposals` in their order; without those, and for views with a mesh, the segments
    of `pred_panoptic` with the scores of `pred_segments`, by decreasing score.

    Keys: `<label space>/<ap_points | ap_points_class_agnostic>/<geometry>/<AP | AP50 | AP25>`, and `.../AP/<class>` if
    `per_class`. Choices other than the protocol's own are named: `<protocol>_<rules>`, `<protocol>_min<min_points>`.

    Args:
        label_space: name of a label space, path of its file, or the label space.
        geometry: 'gt_points', labels are of points; 'gt_depth' or 'own_geometry', labels of views are carried to the
            vertices of the mesh, see `PointMetric`.
        class_agnostic: make all thing classes one; stuff stays stuff, on both sides.
        rules: 'scannet'; or, class-agnostic only, 'maskclustering', where all points of stuff and void are together
            one more instance and excuse nothing.
        min_points: smallest mask and smallest instance that count.
        per_class: also report AP of every class.
        collect_device: where mmengine collects states of several processes, 'cpu' or 'gpu'.
    """

    def __init__(
        self,
        *,
        label_space: str | LabelSpace,
        geometry: str = 'gt_points',
        class_agnostic: bool = False,
        rules: str = 'scannet',
        min_points: int = 100,
        per_class: bool = False,
        collect_device: str = 'cpu',
    ) -> None:
        if rules not in ('scannet', 'maskclustering'):
            raise ValueError(f"`rules` must be 'scannet' or 'maskclustering', got {rules!r}")
        if rules == 'maskclustering' and not class_agnostic:
            raise ValueError("the rules 'maskclustering' know no classes: set `class_agnostic`")
        if class_agnostic and per_class:
            raise ValueError('`per_class` needs classes: unset `class_agnostic`')
        self.class_agnostic = class_agnostic
        self.background_is_instance = rules == 'maskclustering'
        self.min_points = min_points
        self.per_class = per_class
        name = 'ap_points_class_agnostic' if class_agnostic else 'ap_points'
        name += f'_{rules}' if rules != 'scannet' else ''
        name += f'_min{min_points}' if min_points != 100 else ''
        super().__init__(label_space=label_space, protocol=name, geometry=geometry, collect_device=collect_device)

    def point_state(self, sample: Mapping[str, Any]) -> InstanceMatches:
        proposals = predicted_proposals(sample)
        gt = self.gt_points(sample, proposals.masks.shape[1:]).to('cpu')
        is_stuff = self.label_space.is_stuff
        if self.class_agnostic:
            return class_agnostic_matches(
                proposals, gt, is_stuff, min_points=self.min_points, background_is_instance=self.background_is_instance
            )
        return point_instance_matches(
            masks=proposals.masks,
            category=proposals.category,
            score=proposals.score,
            gt_category=gt.category,
            gt_instance=gt.instance,
            is_stuff=is_stuff,
            min_points=self.min_points,
        )

    def summarize(self, states: list[InstanceMatches]) -> dict[str, float]:
        values = average_precision(reduce(operator.add, states))
        metrics = instance_scores(values)
        if self.per_class:
            names = zip(self.label_space.names, values[:, :-1].mean(1).tolist(), strict=True)
            metrics |= {f'AP/{name}': value for name, value in names if name not in self.label_space.stuff}
        return metrics


def class_agnostic_matches(
    proposals: MaskProposals,
    gt: PanopticMap,
    is_stuff: Tensor,
    *,
    min_points: int = 100,
    background_is_instance: bool = False,
) -> InstanceMatches:
    """Matches of one scene with all thing classes as one class.

    Raises:
        ValueError: as `point_instance_matches`.
    """
    is_thing = torch.cat([~is_stuff, is_stuff.new_zeros(1)])  # the last entry answers for void, -1
    check_proposals(proposals.masks, proposals.category, proposals.score, gt.category, gt.instance, is_stuff)
    gt_thing = is_thing[gt.category.long()]
    return point_instance_matches(
        masks=proposals.masks,
        category=is_thing[proposals.category].long() - 1,
        score=proposals.score,
        gt_category=torch.zeros_like(gt.category) if background_is_instance else gt_thing.long() - 1,
        gt_instance=torch.where(gt_thing, gt.instance, 0),
        is_stuff=is_stuff.new_zeros(1),
        min_points=min_points,
    )


def instance_scores(values: Tensor) -> dict[str, float]:
    """Means over the classes of AP (C, T) at ScanNet's thresholds; AP leaves out the last, 0.25."""
    return {
        'AP': float(values[:, :-1].nanmean()),
        'AP50': float(values[:, 0].nanmean()),
        'AP25': float(values[:, -1].nanmean()),
    }
