"""Building blocks that several reconstruction networks share."""

from .checkpointing import run_block
from .conv_head import ConvHead
from .croco import CrocoEncoder, CrossAttention, DecoderBlock
from .dinov2 import DinoEncoder, PatchEmbed
from .dpt import FeatureFusion, PyramidFusion, ResidualConvUnit, resize
from .linear_head import LinearHead
from .projective_attention import PoseInjection, ProjectiveAttention
from .rope import RotaryTable, frame_rotary_table, grid_positions, rotary_table, rotate
from .transformer import Attention, Block, LayerScale, Mlp

__all__ = [
    'Attention',
    'Block',
    'ConvHead',
    'CrocoEncoder',
    'CrossAttention',
    'DecoderBlock',
    'DinoEncoder',
    'FeatureFusion',
    'LayerScale',
    'LinearHead',
    'Mlp',
    'PatchEmbed',
    'PoseInjection',
    'ProjectiveAttention',
    'PyramidFusion',
    'ResidualConvUnit',
    'RotaryTable',
    'frame_rotary_table',
    'grid_positions',
    'resize',
    'rotary_table',
    'rotate',
    'run_block',
]
