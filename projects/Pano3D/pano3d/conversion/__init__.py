"""Raw releases to the stored scene format (docs/scene_format.md)."""

from .batch import ConversionSummary, SceneResult
from .mmdet3d_scannet import convert_mmdet3d_scannet
from .panst3r import convert_panst3r
from .scannet import convert_scannet
from .scannet_25k import convert_scannet_25k
from .sens import SensFrame, SensHeader, SensReader, SensWriter
from .share import Share
from .siu3r import convert_siu3r

__all__ = [
    'ConversionSummary',
    'SceneResult',
    'SensFrame',
    'SensHeader',
    'SensReader',
    'SensWriter',
    'Share',
    'convert_mmdet3d_scannet',
    'convert_panst3r',
    'convert_scannet',
    'convert_scannet_25k',
    'convert_siu3r',
]
