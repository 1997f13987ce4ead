"""What a prediction leaves on disk: pictures, point clouds, arrays and a summary."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pano3d.structures import LabelSpace, SceneSample
from pano3d.visualization import LabelledPoints, save_panels, write_glb, write_ply

EXTENT_PERCENTILES = (2, 98)
"""Between which points an object's size is measured, so that single stray points do not count."""

NEEDED = ('images', 'pred_panoptic', 'pred_reconstruction', 'pred_segments')


def save_outputs(
    sample: SceneSample,
    label_space: LabelSpace,
    folder: str | Path,
    *,
    min_confidence: float = 0.0,
    max_points: int = 1_000_000,
) -> dict:
    """Write everything known about a predicted scene and return the summary.

    * `panels/scene.png`, `panels/view_*.png`: see `save_panels`.
    * `scene.ply`, `scene.glb`: see `write_ply` and `write_glb`; points below `min_confidence` (unit of the network)
      are left out, and at most `max_points` are kept. No `scene.glb` if no point is left.
    * `prediction.npz`: see `prediction_arrays`; all points.
    * `summary.json`: see `summarize`.

    Raises:
        ValueError: if the sample lacks a prediction.
    """
    missing = [name for name in NEEDED if name not in sample]
    if missing:
        raise ValueError(f'outputs need {list(NEEDED)} of the sample, not set: {missing}; run the model on it first')
    folder = Path(folder)
    save_panels(sample, label_space, folder / 'panels')
    cloud = LabelledPoints.from_sample(sample, min_confidence=min_confidence, max_points=max_points)
    write_ply(cloud, label_space, folder / 'scene.ply')
    glb = folder / 'scene.glb'
    glb.unlink(missing_ok=True)
    if len(cloud):
        write_glb(cloud, label_space, glb)
    np.savez_compressed(folder / 'prediction.npz', allow_pickle=False, **prediction_arrays(sample, label_space))
    summary = summarize(sample, label_space, min_confidence=min_confidence)
    (folder / 'summary.json').write_text(json.dumps(summary, indent=2) + '\n', encoding='utf-8')
    return summary


def prediction_arrays(sample: SceneSample, label_space: LabelSpace) -> dict[str, np.ndarray]:
    """The prediction as plain arrays; V views of H x W pixels, OpenCV axes, scene frame, no pickled objects.

    images (V, H, W, 3) uint8, RGB as the model saw it; category (V, H, W) int16, index into class_names or -1;
    instance (V, H, W) int32, 0 = none; depth (V, H, W) float32, z in the camera frame; points (V, H, W, 3) float32;
    confidence (V, H, W) float32; valid (V, H, W) bool; camera_to_world (V, 4, 4) float32; intrinsics (V, 3, 3)
    float32, pixels; frame_ids (V,) str; class_names (C,) str; segment_category (S,) int16, segment_instance (S,) int32,
    segment_score (S,) float64.
    """
    reconstruction = sample.pred_reconstruction.to('cpu')
    panoptic = sample.pred_panoptic.to('cpu')
    images = (sample.images.cpu().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
    return {
        'images': images.numpy(),
        'category': panoptic.category.numpy().astype(np.int16),
        'instance': panoptic.instance.numpy().astype(np.int32),
        'depth': reconstruction.depth.detach().float().numpy(),
        'points': reconstruction.points.detach().float().numpy(),
        'confidence': reconstruction.confidence.detach().float().numpy(),
        'valid': reconstruction.valid.numpy(),
        'camera_to_world': reconstruction.camera_to_world.detach().float().numpy(),
        'intrinsics': reconstruction.intrinsics.detach().float().numpy(),
        'frame_ids': np.array(list(sample.frame_ids), dtype=np.str_),
        'class_names': np.array(label_space.names, dtype=np.str_),
        'segment_category': _column(sample, 'category', np.int16),
        'segment_instance': _column(sample, 'instance', np.int32),
        'segment_score': _column(sample, 'score', np.float64),
    }


def _column(sample: SceneSample, name: str, dtype: type) -> np.ndarray:
    return np.array([segment[name] for segment in sample.pred_segments], dtype=dtype)


def summarize(sample: SceneSample, label_space: LabelSpace, *, min_confidence: float = 0.0) -> dict:
    """The scene in a few numbers, ready for JSON.

    Returns:
        `scene_id`; `label_space`; `views`, the frame ids; `confidence`, its minimum, median and maximum (to choose
        `min_confidence` by); `segments`, best score first, each with `class`, `instance` (0 = stuff), `score`,
        `views` (frame ids that see it), `num_pixels`, and, over its valid points of at least `min_confidence`,
        `centroid` and `size` (x, y, z in the scene frame; size along the axes between the 2nd and the 98th
        percentile), None if it has no such point.
    """
    arrays = prediction_arrays(sample, label_space)
    confidence = arrays['confidence'][arrays['valid']]
    spread = np.percentile(confidence, (0, 50, 100)).tolist() if confidence.size else [None] * 3
    usable = arrays['valid'] & (arrays['confidence'] >= min_confidence) & np.isfinite(arrays['points']).all(-1)
    segments = [_describe(segment, arrays, usable) for segment in sample.pred_segments]
    return {
        'scene_id': sample.scene_id,
        'label_space': label_space.name,
        'views': arrays['frame_ids'].tolist(),
        'confidence': dict(zip(('min', 'median', 'max'), spread, strict=True)),
        'segments': sorted(segments, key=lambda segment: -segment['score']),
    }


def _describe(segment: Mapping[str, int | float], arrays: Mapping[str, np.ndarray], usable: np.ndarray) -> dict:
    mask = (arrays['category'] == segment['category']) & (arrays['instance'] == segment['instance'])
    points = arrays['points'][mask & usable].astype(np.float64)
    return {
        'class': str(arrays['class_names'][int(segment['category'])]),
        'instance': int(segment['instance']),
        'score': float(segment['score']),
        'views': arrays['frame_ids'][mask.any(axis=(1, 2))].tolist(),
        'num_pixels': int(mask.sum()),
        'centroid': points.mean(axis=0).tolist() if len(points) else None,
        'size': np.ptp(np.percentile(points, EXTENT_PERCENTILES, axis=0), axis=0).tolist() if len(points) else None,
    }


def format_summary(summary: Mapping) -> str:
    """The segments of a summary as a table for the terminal."""
    rows = [('class', 'instance', 'score', 'views', 'pixels', 'size x y z')]
    for segment in summary['segments']:
        size = ' '.join(f'{length:.2f}' for length in segment['size']) if segment['size'] else '-'
        rows.append(
            (
                segment['class'],
                str(segment['instance'] or '-'),
                f'{segment["score"]:.2f}',
                f'{len(segment["views"])}/{len(summary["views"])}',
                str(segment['num_pixels']),
                size,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return '\n'.join('  '.join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows)


def format_metrics(results: Mapping[str, Mapping[str, float]]) -> str:
    """A Markdown table with a row per run (e.g. trained, untrained, baseline) and a column per metric; '-' = absent."""
    metrics = list(dict.fromkeys(name for values in results.values() for name in values))
    rows = [['', *metrics], ['---'] * (len(metrics) + 1)]
    for run, values in results.items():
        rows.append([run, *(f'{values[name]:.3f}' if name in values else '-' for name in metrics)])
    return '\n'.join('| ' + ' | '.join(row) + ' |' for row in rows)
