"""At home in mmdet3d: the only place that knows mmdet3d, mmcv, mmdet and spconv.

Importing it costs none of them: its modules import them when a component is built, through `require`, which says how to
install what is missing.
"""

from .backbones import DUSt3RFeatures, ImageFeatures, MUSt3RFeatures, Pi3Features, VGGTFeatures
from .versions import require

__all__ = [
    'DUSt3RFeatures',
    'ImageFeatures',
    'MUSt3RFeatures',
    'Pi3Features',
    'VGGTFeatures',
    'require',
]
