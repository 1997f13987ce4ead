"""Pictures, labelled point clouds and training curves."""

from .curves import save_training_curves
from .palette import category_colors, instance_colors, palette
from .panels import draw_panels, save_panels, spread_views
from .point_cloud import LabelledPoints, write_glb, write_ply

__all__ = [
    'LabelledPoints',
    'category_colors',
    'draw_panels',
    'instance_colors',
    'palette',
    'save_panels',
    'save_training_curves',
    'spread_views',
    'write_glb',
    'write_ply',
]
