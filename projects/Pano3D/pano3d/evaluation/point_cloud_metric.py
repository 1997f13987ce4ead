"""Distances between predicted and true surfaces: points_acc_comp."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pano3d.functional.geometry import transform_points
from pano3d.functional.point_cloud_error import estimate_normals, point_cloud_errors
from pano3d.registry import METRICS

from .own_geometry import closest_point_motion, paired_points
from .protocol_metric import ProtocolMetric
from .shared_sample import derived

NAMES = (
    'accuracy',
    'accuracy_median',
    'completion',
    'completion_median',
    'completion_ratio',
    'normal_consistency',
    'normal_consistency_median',
)


@METRICS.register_module()
class PointCloudMetric(ProtocolMetric):
    """Accuracy and completion, metres, completion ratio and normal consistency, fractions; mean over scenes.

    The predicted points of pixels where both geometries are valid are compared with all true points, after one Sim(3)
    per scene from these pixels. Normals are estimated from the nearest neighbours in each cloud.

    Keys: `points_acc_comp/own_geometry/<accuracy[_median] | completion[_median | _ratio] |
    normal_consistency[_median]>`; `points_acc_comp_icp` in place of `points_acc_comp` with ICP.

    Args:
        icp: refine the alignment by closest points (Pi3).
        icp_distance: of points that ICP may pair, metres.
        normal_neighbours: points a normal is estimated from, itself among them.
        ratio_distance: up to which, strictly, a true point counts as completed, metres.
        collect_device: where mmengine collects states of several processes, 'cpu' or 'gpu'.
    """

    def __init__(
        self,
        *,
        icp: bool = False,
        icp_distance: float = 0.1,
        normal_neighbours: int = 30,
        ratio_distance: float = 0.05,
        collect_device: str = 'cpu',
    ) -> None:
        self.icp = icp
        self.icp_distance = icp_distance
        self.normal_neighbours = normal_neighbours
        self.ratio_distance = ratio_distance
        protocol = 'points_acc_comp_icp' if icp else 'points_acc_comp'
        super().__init__(prefix=f'{protocol}/own_geometry', collect_device=collect_device)

    def scene_state(self, sample: Mapping[str, Any]) -> Tensor:
        """The scores of the scene in the order of `NAMES`, (7,)."""
        predicted, true = paired_points(sample)
        normals, true_normals = derived(sample, ('normals', self.normal_neighbours), lambda: self._normals(sample))
        if self.icp:
            motion = closest_point_motion(sample, max_distance=self.icp_distance)
            predicted, normals = transform_points(motion, predicted), normals @ motion[:3, :3].T
        errors = point_cloud_errors(
            predicted=predicted,
            gt=true,
            predicted_normals=normals,
            gt_normals=true_normals,
            ratio_distance=self.ratio_distance,
        )
        return torch.tensor([getattr(errors, name) for name in NAMES], dtype=torch.float64)

    def _normals(self, sample: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        predicted, true = (estimate_normals(c, neighbours=self.normal_neighbours) for c in paired_points(sample))
        return predicted, true

    def summarize(self, states: list[Tensor]) -> dict[str, float]:
        return dict(zip(NAMES, torch.stack(states).mean(0).tolist(), strict=True))
