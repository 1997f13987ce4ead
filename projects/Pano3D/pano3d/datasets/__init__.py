"""Scenes of several views: reading, sampling, augmenting, packing."""

from .mixed_scenes import MixedScenesDataset
from .overlap_table import OverlapTable
from .samplers import InfiniteDrawSampler
from .scannet_multiview import ScanNetMultiViewDataset
from .scene_record import FrameRecord, SceneRecord, read_scene
from .transforms import (
    AllViews,
    ColorJitter,
    LinspaceViews,
    ListedViews,
    LoadViews,
    MirrorScene,
    OverlapViews,
    PackScene,
    RandomStrideViews,
    ResizeCrop,
    ShuffleViews,
    SplitKeyframes,
    StrideViews,
    Transform,
)
from .view_lists import match_frames, parse_view_lines, read_view_lists, write_view_lists

__all__ = [
    'AllViews',
    'ColorJitter',
    'FrameRecord',
    'InfiniteDrawSampler',
    'LinspaceViews',
    'ListedViews',
    'LoadViews',
    'MirrorScene',
    'MixedScenesDataset',
    'OverlapTable',
    'OverlapViews',
    'PackScene',
    'RandomStrideViews',
    'ResizeCrop',
    'ScanNetMultiViewDataset',
    'SceneRecord',
    'ShuffleViews',
    'SplitKeyframes',
    'StrideViews',
    'Transform',
    'match_frames',
    'parse_view_lines',
    'read_scene',
    'read_view_lists',
    'write_view_lists',
]
