"""Instances on the prediction's own geometry: unposed_ap."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import reduce
from typing import Any

import torch

from pano3d.functional.average_precision import InstanceMatches, average_precision
from pano3d.functional.geometry import transform_points
from pano3d.functional.lifting import pixel_neighbours
from pano3d.registry import METRICS
from pano3d.structures import LabelSpace

from .own_geometry import aligned_points, closest_point_motion
from .point_instance_metric import class_agnostic_matches, instance_scores
from .predicted_segments import ScoredSegments, scored_segments
from .protocol_metric import ProtocolMetric, check_views, gt_views, load_label_space


@METRICS.register_module()
class UnposedInstanceMetric(ProtocolMetric):
    """Class-agnostic AP, AP50 and AP25, fractions, of segments that the prediction's own points carry.

    The predicted points are brought to the ground truth by one Sim(3) per scene, then by closest points. Every true
    point, a pixel with true depth, takes the segment of the nearest predicted point, or none if that is too far: wrong
    geometry costs instances. Then the rules of ap_points_class_agnostic on the true points. FAST3DIS evaluates in this
    way; its distances are not published, the defaults are ours.

    Keys: `<label space>/unposed_ap/own_geometry/<AP | AP50 | AP25>`.

    Args:
        label_space: name of a label space, path of its file, or the label space.
        icp_distance: of points that the closest-point refinement may pair, metres.
        label_distance: up to which a predicted point labels a true one, metres.
        min_points: smallest mask and smallest instance that count.
        collect_device: where mmengine collects states of several processes, 'cpu' or 'gpu'.
    """

    def __init__(
        self,
        *,
        label_space: str | LabelSpace,
        icp_distance: float = 0.1,
        label_distance: float = 0.1,
        min_points: int = 100,
        collect_device: str = 'cpu',
    ) -> None:
        self.label_space = load_label_space(label_space)
        self.icp_distance = icp_distance
        self.label_distance = label_distance
        self.min_points = min_points
        super().__init__(prefix=f'{self.label_space.name}/unposed_ap/own_geometry', collect_device=collect_device)

    def scene_state(self, sample: Mapping[str, Any]) -> InstanceMatches:
        points, predicted, gt = aligned_points(sample)
        segments = scored_segments(sample)
        labels = gt_views(sample, self.label_space).to('cpu')
        check_views(sample, 'pred_panoptic', segments.index.shape)
        check_views(sample, 'gt_panoptic', labels.shape)
        cloud = gt.points[gt.valid].double()
        motion = closest_point_motion(sample, max_distance=self.icp_distance)
        moved = transform_points(motion, points.flatten(0, 2))
        pixel = pixel_neighbours(moved.view_as(points), predicted.valid, cloud, num_neighbours=1).pixel[:, 0]
        near = torch.linalg.vector_norm(moved[pixel] - cloud, dim=-1) <= self.label_distance
        owner = torch.where(near, segments.index.flatten()[pixel], -1)
        proposals = ScoredSegments(owner, segments.category, segments.score).as_proposals()
        return class_agnostic_matches(
            proposals, labels[gt.valid], self.label_space.is_stuff, min_points=self.min_points
        )

    def summarize(self, states: list[InstanceMatches]) -> dict[str, float]:
        return instance_scores(average_precision(reduce(operator.add, states)))
