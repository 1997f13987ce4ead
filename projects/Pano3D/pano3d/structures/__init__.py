"""Value types: what flows between data, model, evaluation and pictures."""

from .depth_views import DepthViews
from .label_space import LabelSpace
from .mask_proposals import MaskProposals
from .panoptic_map import VOID, PanopticMap
from .reconstruction import Reconstruction
from .scene_sample import SceneSample
from .text_embeddings import TextEmbeddings

__all__ = [
    'VOID',
    'DepthViews',
    'LabelSpace',
    'MaskProposals',
    'PanopticMap',
    'Reconstruction',
    'SceneSample',
    'TextEmbeddings',
]
