"""Evaluation protocols as mmengine metrics; the mathematics is in `pano3d.functional`."""

from .depth_metric import DepthMetric
from .scene_panoptic_metric import ScenePanopticMetric
from .semantic_iou_metric import SemanticIoUMetric

__all__ = ['DepthMetric', 'ScenePanopticMetric', 'SemanticIoUMetric']
