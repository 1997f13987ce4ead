"""Measures how much the frames of stored scenes see of each other, and stores it beside them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pano3d.conversion.batch import ConversionSummary, SceneResult, run_scenes
from pano3d.datasets.overlap_table import OverlapTable
from pano3d.datasets.scene_record import FrameRecord, SceneRecord, check_format, read_json, read_scene
from pano3d.datasets.transforms.geometric import resample_nearest
from pano3d.datasets.transforms.loading import read_depth
from pano3d.functional.view_overlap import pairwise_overlap

HEIGHT = 36  # rows of the depth images that are compared: a share is right to about a per cent


@dataclass(frozen=True)
class _Settings:
    root: Path
    tolerance: float
    redo: bool


def measure_overlap(
    root: str | Path,
    split: str,
    *,
    tolerance: float = 0.05,
    redo: bool = False,
    num_workers: int = 1,
    show_progress: bool = False,
) -> ConversionSummary:
    """Write `overlap.npz` of every scene of a list that has none, or one of other frames.

    Args:
        root: folder of the stored scenes.
        split: the list, e.g. 'train.json'.
        tolerance: relative difference of depth that still counts as the same surface.
        redo: whether to measure scenes again that have a table.
        num_workers: processes; 1 means this one.
        show_progress: draw a progress bar on stderr.

    Raises:
        FileNotFoundError, ValueError: if the list cannot be used.
    """
    path = Path(root) / split
    record = read_json(str(path))
    try:
        check_format(record['metainfo'], 'pano3d-scenes', 1)
        scene_ids = [str(entry['scene_id']) for entry in record['data_list']]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f'{path}: not a list of stored scenes ({error!r})') from error
    convert = partial(_measure_scene, settings=_Settings(Path(root), tolerance, redo))
    return run_scenes(scene_ids, convert, num_workers=num_workers, show_progress=show_progress)


def overlap_of(
    scene: SceneRecord, *, tolerance: float = 0.05, backend_args: dict[str, Any] | None = None
) -> OverlapTable:
    """Overlap of all frames of a scene, from every one of its depth images at a height of 36 pixels.

    Raises:
        FileNotFoundError, ValueError: if a depth image is missing or damaged.
    """
    width, height = scene.frames[0].depth_size
    size = (HEIGHT, max(1, round(HEIGHT * width / height)))
    depths, cameras = zip(*(_small_depth(frame, scene, size, backend_args) for frame in scene.frames), strict=True)
    shares = pairwise_overlap(
        torch.from_numpy(np.stack(depths)),
        torch.from_numpy(np.stack(cameras).astype(np.float32)),
        torch.from_numpy(np.stack([frame.camera_to_world for frame in scene.frames]).astype(np.float32)),
        tolerance=tolerance,
    )
    return OverlapTable(tuple(frame.id for frame in scene.frames), shares.numpy())


def _measure_scene(scene_id: str, *, settings: _Settings) -> SceneResult:
    scene = read_scene(str(settings.root / 'scenes' / scene_id))
    try:
        done = not settings.redo and bool(OverlapTable.read(scene).frame_ids)
    except (FileNotFoundError, ValueError):
        done = False
    if not done:
        overlap_of(scene, tolerance=settings.tolerance).write(scene.overlap)
    return SceneResult(scene_id, num_frames=len(scene.frames), reused=done)


def _small_depth(
    frame: FrameRecord, scene: SceneRecord, size: tuple[int, int], backend_args: dict[str, Any] | None
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Depth of a frame at (H, W), nearest pixels, and its intrinsics."""
    depth = read_depth(frame, scene.depth_scale, backend_args)
    scale_x, scale_y = size[1] / depth.shape[1], size[0] / depth.shape[0]
    to_small = np.array([[scale_x, 0, 0.5 * scale_x - 0.5], [0, scale_y, 0.5 * scale_y - 0.5], [0, 0, 1]])
    camera = to_small @ frame.depth_intrinsics
    return resample_nearest(depth, frame.depth_intrinsics, camera, size), camera
