"""From the record of a scene to tensors. Each transform maps a dict to a new dict and draws only from its `rng`.

| key | content | set by |
| --- | --- | --- |
| scene, label_space, sample_idx, backend_args, rng | what the sample starts from | the dataset |
| view_list | which of several lists of the scene ListedViews takes, a number | the dataset |
| views | V `FrameRecord`s | a transform named ...Views; ShuffleViews reorders |
| keyframes | (V,) bool, only for online training | SplitKeyframes |
| camera_to_world | (V, 4, 4) float64 | LoadViews |
| color | V arrays (h, w, 3) uint8 RGB; after ResizeCrop (V, H, W, 3) | LoadViews |
| depth | V arrays (h, w) float32 metres, 0 = unknown; after ResizeCrop (V, H, W) | LoadViews |
| instance | V arrays (h, w), uint8 or uint16 as stored, 0 = none; after ResizeCrop (V, H, W) | LoadViews |
| color_intrinsics, depth_intrinsics | (V, 3, 3) float64 pixels, until ResizeCrop makes them one | LoadViews |
| instance_intrinsics | the same of the instance map, colour's at its full size | LoadViews |
| intrinsics | (V, 3, 3) float64 pixels, of all modalities | ResizeCrop |
"""

from .base import Transform
from .color import ColorJitter
from .geometric import MirrorScene, ResizeCrop
from .loading import LoadViews
from .overlap_selection import OverlapViews, SplitKeyframes
from .packing import PackScene
from .view_selection import AllViews, LinspaceViews, ListedViews, RandomStrideViews, ShuffleViews, StrideViews

__all__ = [
    'AllViews',
    'ColorJitter',
    'LinspaceViews',
    'ListedViews',
    'LoadViews',
    'MirrorScene',
    'OverlapViews',
    'PackScene',
    'RandomStrideViews',
    'ResizeCrop',
    'ShuffleViews',
    'SplitKeyframes',
    'StrideViews',
    'Transform',
]
