"""The package in one call: images in, labelled reconstruction out."""

from .images import list_images
from .inferencer import Pano3DInferencer
from .outputs import format_metrics, format_summary, prediction_arrays, save_outputs, summarize

__all__ = [
    'Pano3DInferencer',
    'format_metrics',
    'format_summary',
    'list_images',
    'prediction_arrays',
    'save_outputs',
    'summarize',
]
