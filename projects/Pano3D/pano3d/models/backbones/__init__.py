"""Pretrained reconstruction networks behind one contract."""

from .base import Backbone, GeometryPrediction, OnlineBackbone, Tokens
from .dust3r import DUSt3RBackbone
from .mast3r import MASt3RBackbone
from .must3r import MUSt3RBackbone
from .must3r_memory import MUSt3RMemory
from .pi3 import Pi3Backbone
from .pi3x import Pi3XBackbone
from .pi3x_conditions import GeometryConditions
from .vggt import VGGTBackbone

__all__ = [
    'Backbone',
    'DUSt3RBackbone',
    'GeometryConditions',
    'GeometryPrediction',
    'MASt3RBackbone',
    'MUSt3RBackbone',
    'MUSt3RMemory',
    'OnlineBackbone',
    'Pi3Backbone',
    'Pi3XBackbone',
    'Tokens',
    'VGGTBackbone',
]
