"""Pretrained reconstruction networks behind one contract."""

from .base import Backbone, GeometryPrediction, Tokens
from .vggt import VGGTBackbone

__all__ = ['Backbone', 'GeometryPrediction', 'Tokens', 'VGGTBackbone']
