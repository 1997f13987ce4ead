"""At home in mmdet3d: the only place that knows mmdet3d, mmcv, mmdet and spconv.

Importing it costs none of them: its modules import them when a component is built, through `require`, which says how to
install what is missing.
"""

from .backbones import DUSt3RFeatures, ImageFeatures, MUSt3RFeatures, Pi3Features, VGGTFeatures
from .box_detection import BoxDetection
from .head_metrics import BoxMetric, PointSegMetric
from .metrics import Det3DMetric
from .point_segmentation import PointSegmentation
from .samples import from_det3d, scene_points, to_det3d
from .sparse_refinement import SparseRefinement
from .versions import require

__all__ = [
    'BoxDetection',
    'BoxMetric',
    'DUSt3RFeatures',
    'Det3DMetric',
    'ImageFeatures',
    'MUSt3RFeatures',
    'Pi3Features',
    'PointSegMetric',
    'PointSegmentation',
    'SparseRefinement',
    'VGGTFeatures',
    'from_det3d',
    'require',
    'scene_points',
    'to_det3d',
]
