"""Evaluation protocols as mmengine metrics; the mathematics is in `pano3d.functional`."""

from .depth_metric import DepthMetric
from .point_cloud_metric import PointCloudMetric
from .pose_metric import PosePairMetric, TrajectoryMetric
from .scene_panoptic_metric import ScenePanopticMetric
from .semantic_iou_metric import SemanticIoUMetric

__all__ = [
    'DepthMetric',
    'PointCloudMetric',
    'PosePairMetric',
    'ScenePanopticMetric',
    'SemanticIoUMetric',
    'TrajectoryMetric',
]
