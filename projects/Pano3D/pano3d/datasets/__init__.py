"""Scenes of several views: reading, sampling, augmenting, packing."""

from .samplers import InfiniteDrawSampler
from .scannet_multiview import ScanNetMultiViewDataset
from .scene_record import FrameRecord, SceneRecord, read_scene
from .transforms import (
    ColorJitter,
    LinspaceViews,
    LoadViews,
    MirrorScene,
    PackScene,
    RandomStrideViews,
    ResizeCrop,
    ShuffleViews,
    Transform,
)

__all__ = [
    'ColorJitter',
    'FrameRecord',
    'InfiniteDrawSampler',
    'LinspaceViews',
    'LoadViews',
    'MirrorScene',
    'PackScene',
    'RandomStrideViews',
    'ResizeCrop',
    'ScanNetMultiViewDataset',
    'SceneRecord',
    'ShuffleViews',
    'Transform',
    'read_scene',
]
