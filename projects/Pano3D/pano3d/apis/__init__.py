"""The package in one call: images in, labelled reconstruction out."""

from .evaluation import Evaluation, evaluate, evaluate_scenes
from .images import list_images
from .inferencer import Pano3DInferencer
from .official_images import OfficialView, load_dust3r_images, load_must3r_images, load_pi3_images, load_vggt_images
from .outputs import format_metrics, format_summary, prediction_arrays, save_outputs, summarize
from .predictions import SavedPredictions, empty_prediction, read_prediction, write_prediction
from .report import format_scores, format_troubles, write_report

__all__ = [
    'Evaluation',
    'OfficialView',
    'Pano3DInferencer',
    'SavedPredictions',
    'empty_prediction',
    'evaluate',
    'evaluate_scenes',
    'format_metrics',
    'format_scores',
    'format_summary',
    'format_troubles',
    'list_images',
    'load_dust3r_images',
    'load_must3r_images',
    'load_pi3_images',
    'load_vggt_images',
    'prediction_arrays',
    'read_prediction',
    'save_outputs',
    'summarize',
    'write_prediction',
    'write_report',
]
