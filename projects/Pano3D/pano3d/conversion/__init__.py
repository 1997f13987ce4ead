"""Raw releases to the stored scene format (docs/scene_format.md)."""

from .batch import ConversionSummary, SceneResult
from .scannet import convert_scannet
from .sens import SensFrame, SensHeader, SensReader, SensWriter
from .share import Share

__all__ = [
    'ConversionSummary',
    'SceneResult',
    'SensFrame',
    'SensHeader',
    'SensReader',
    'SensWriter',
    'Share',
    'convert_scannet',
]
