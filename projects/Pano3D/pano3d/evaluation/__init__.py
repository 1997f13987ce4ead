"""Evaluation protocols as mmengine metrics; the mathematics is in `pano3d.functional`."""

from .depth_metric import DepthMetric
from .iggt_metric import IGGTMetric
from .image_instance_metric import ImageInstanceMetric
from .merged_instance_metric import MergedInstanceMetric
from .mesh_metric import UniteMeshMetric
from .point_cloud_metric import PointCloudMetric
from .point_instance_metric import PointInstanceMetric
from .point_panoptic_metric import PointPanopticMetric
from .point_semantic_metric import PointSemanticMetric
from .pose_metric import PosePairMetric, TrajectoryMetric
from .scene_panoptic_metric import ScenePanopticMetric
from .semantic_iou_metric import SemanticIoUMetric
from .unposed_instance_metric import UnposedInstanceMetric
from .voxel_metric import VoxelMetric

__all__ = [
    'DepthMetric',
    'IGGTMetric',
    'ImageInstanceMetric',
    'MergedInstanceMetric',
    'PointCloudMetric',
    'PointInstanceMetric',
    'PointPanopticMetric',
    'PointSemanticMetric',
    'PosePairMetric',
    'ScenePanopticMetric',
    'SemanticIoUMetric',
    'TrajectoryMetric',
    'UniteMeshMetric',
    'UnposedInstanceMetric',
    'VoxelMetric',
]
