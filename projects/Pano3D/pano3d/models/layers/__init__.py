"""Building blocks that several reconstruction networks share."""

from .checkpointing import run_block
from .croco import CrocoEncoder, CrossAttention, DecoderBlock
from .dinov2 import DinoEncoder, PatchEmbed
from .dpt import FeatureFusion, PyramidFusion, ResidualConvUnit, resize
from .linear_head import LinearHead
from .rope import RotaryTable, frame_rotary_table, grid_positions, rotary_table, rotate
from .transformer import Attention, Block, LayerScale, Mlp

__all__ = [
    'Attention',
    'Block',
    'CrocoEncoder',
    'CrossAttention',
    'DecoderBlock',
    'DinoEncoder',
    'FeatureFusion',
    'LayerScale',
    'LinearHead',
    'Mlp',
    'PatchEmbed',
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
