"""The package in one call: images in, labelled reconstruction out."""

from .images import list_images
from .inferencer import Pano3DInferencer
from .official_images import OfficialView, load_dust3r_images, load_must3r_images, load_pi3_images, load_vggt_images
from .outputs import format_metrics, format_summary, prediction_arrays, save_outputs, summarize

__all__ = [
    'OfficialView',
    'Pano3DInferencer',
    'format_metrics',
    'format_summary',
    'list_images',
    'load_dust3r_images',
    'load_must3r_images',
    'load_pi3_images',
    'load_vggt_images',
    'prediction_arrays',
    'save_outputs',
    'summarize',
]
