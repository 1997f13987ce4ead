"""Looks through stored scenes before anybody trains on them: files, poses, labels, and what neighbours share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from pano3d.datasets.scene_record import FrameRecord, SceneRecord, check_format, read_json, read_scene
from pano3d.datasets.transforms import LoadViews, PackScene, ResizeCrop
from pano3d.functional.view_overlap import seen_points
from pano3d.structures import LabelSpace, SceneSample
from pano3d.visualization import category_colors, instance_colors, spread_views

SPLITS = ('train.json', 'val.json', 'test.json')
HEIGHT = 120  # of the images that are looked at, pixels
MARGIN = 2.0  # metres that a camera may be outside the box of the mesh
MAX_CONTRADICTIONS = 0.2
MIN_OVERLAP = 0.02  # of neighbours, in the median
DEPTHS = (0.05, 100.0)  # metres, of the median pixel
MAX_NAMES = 20
SHEET_COLUMNS, SHEET_ROWS, GAP, TITLE = 4, 24, 4, 16


@dataclass
class SceneCheck:
    """What was found in one scene.

    Args:
        scene_id: its name.
        num_frames: frames in `scene.json`.
        problems: sentences on what is wrong.
        without_instances: annotated frames that have no instance map.
        overlap: share of a frame's points that the next frame sees, of the pairs looked at.
        contradictions: share of them that cannot be there according to the next frame.
        depths: median depth of frames, metres; 0 if one has none.
        pixels: (C + 1,) pixels of each class, void last.
        pictures: frames with their labels laid over, (H, W, 3) uint8 RGB.
    """

    scene_id: str
    num_frames: int = 0
    problems: list[str] = field(default_factory=list)
    without_instances: int = 0
    overlap: list[float] = field(default_factory=list)
    contradictions: list[float] = field(default_factory=list)
    depths: list[float] = field(default_factory=list)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    pictures: list[np.ndarray] = field(default_factory=list)


def check_split(root: str | Path, split: str, label_space: LabelSpace, *, num_pairs: int = 4) -> list[SceneCheck]:
    """Check every scene of a list.

    Args:
        root: folder of the stored scenes.
        split: the list, e.g. 'train.json'.
        label_space: for the labels.
        num_pairs: pairs of neighbouring frames of each scene whose images are read; existence is checked for all.

    Raises:
        FileNotFoundError, ValueError: if the list cannot be used.
    """
    path = Path(root) / split
    record = read_json(str(path))
    try:
        check_format(record['metainfo'], 'pano3d-scenes', 1)
        listed = [(str(entry['scene_id']), int(entry['num_frames'])) for entry in record['data_list']]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f'{path}: not a list of stored scenes ({error!r})') from error
    return [
        check_scene(Path(root) / 'scenes' / scene_id, num_frames, label_space, num_pairs=num_pairs)
        for scene_id, num_frames in listed
    ]


def check_scene(folder: Path, num_frames: int, label_space: LabelSpace, *, num_pairs: int = 4) -> SceneCheck:
    """Check one scene; see `check_split`. `num_frames` is what the list says."""
    check = SceneCheck(folder.name, pixels=np.zeros(label_space.num_classes + 1, np.int64))
    try:
        scene = read_scene(str(folder))
    except (OSError, ValueError) as error:
        check.problems.append(str(error))
        return check
    check.num_frames = len(scene.frames)
    if not scene.frames:
        check.problems.append('scene.json has no frames')
        return check
    if scene.scene_id != folder.name:
        check.problems.append(f'scene.json is of scene {scene.scene_id!r}; expected the name of its folder')
    if len(scene.frames) != num_frames:
        check.problems.append(f'the list says {num_frames} frames, scene.json has {len(scene.frames)}')
    if scene.instances:
        check.without_instances = sum(frame.instance is None for frame in scene.frames)
    missing = [path for path in _files(scene) if not Path(path).is_file()]
    if missing:
        check.problems.append(f'{len(missing)} files are not there, e.g. {missing[0]}')
    check.problems += pose_problems(scene)
    key = label_space.source_key
    if scene.instances and all(instance.get(key) is None for instance in scene.instances):
        check.problems.append(f'none of {len(scene.instances)} instances has `{key}`, by which classes are found')
    if not missing:
        _look_at_pairs(scene, label_space, num_pairs, check)
        check.problems += geometry_problems(check)
    return check


def geometry_problems(check: SceneCheck) -> list[str]:
    """What is wrong with depth, units and directions, by what the pairs looked at share."""
    problems, known = [], [depth for depth in check.depths if depth > 0]
    if known and len(known) < len(check.depths):
        problems.append(f'{len(check.depths) - len(known)} of {len(check.depths)} frames have no depth at all')
    if known and not DEPTHS[0] <= np.median(known) <= DEPTHS[1]:
        problems.append(
            f'the depth is {np.median(known):.4g} m in the median; look at `depth_scale`, which is metres per unit'
        )
    if len(check.overlap) > 1 and np.median(check.overlap) < MIN_OVERLAP:
        problems.append(
            f'neighbouring frames see {100 * np.median(check.overlap):.0f} % of each other; look at the unit (metres) '
            'and direction of the poses (camera_to_world), and whether the frames are in their order'
        )
    if check.contradictions and np.median(check.contradictions) > MAX_CONTRADICTIONS:
        problems.append(
            f'depth and poses contradict each other: {100 * np.median(check.contradictions):.0f} % of the points of a '
            'frame float before what the next frame sees; look at the direction of the poses (camera_to_world), the '
            'axes (OpenCV) and `depth_scale`'
        )
    return problems


def pose_problems(scene: SceneRecord) -> list[str]:
    """What is wrong with the poses of a scene: no rotations, or cameras far from the mesh."""
    poses = np.stack([frame.camera_to_world for frame in scene.frames])
    rotations, centres = poses[:, :3, :3], poses[:, :3, 3]
    products = rotations @ rotations.transpose(0, 2, 1)
    rigid = (np.abs(products - np.eye(3)).max((1, 2)) < 1e-3) & (np.linalg.det(rotations) > 0)
    problems = _named(scene, ~rigid, 'have a pose that is no rotation')
    if scene.mesh is not None and Path(scene.mesh).is_file():
        with np.load(scene.mesh) as mesh:
            vertices = mesh['vertices']
        if len(vertices):
            outside = (centres < vertices.min(0) - MARGIN) | (centres > vertices.max(0) + MARGIN)
            problems += _named(scene, outside.any(1), f'are more than {MARGIN:g} m outside the mesh')
    return problems


def describe(split: str, checks: Sequence[SceneCheck], label_space: LabelSpace) -> str:
    """The report of a list, for people."""
    frames = [check.num_frames for check in checks]
    lines = [f'{split}: {len(checks)} scenes, {sum(frames)} frames']
    if checks:
        lines[0] += f' ({min(frames)} to {max(frames)} per scene, median {np.median(frames):g})'
    without = [check for check in checks if check.without_instances]
    if without:
        total = sum(check.without_instances for check in without)
        lines.append(f'  no instance map: {total} frames of {len(without)} annotated scenes')
    blind = sum(bool(check.depths) and not any(check.depths) for check in checks)
    if blind:
        lines.append(f'  no depth: {blind} scenes')
    overlaps = {check.scene_id: float(np.median(check.overlap)) for check in checks if check.overlap}
    if overlaps:
        least = min(overlaps, key=lambda scene_id: overlaps[scene_id])
        lines.append(
            f'  overlap of neighbours: median {np.median(list(overlaps.values())):.2f}, '
            f'least {overlaps[least]:.2f} ({least})'
        )
    pixels = sum((check.pixels for check in checks), np.zeros(label_space.num_classes + 1, np.int64))
    if pixels.any():
        shares, names = pixels / pixels.sum(), [*label_space.names, 'void']
        order = [index for index in np.argsort(-shares, kind='stable') if pixels[index]]
        lines.append('  labels in % of pixels: ' + ', '.join(f'{names[i]} {100 * shares[i]:.1f}' for i in order))
        unseen = [name for name, count in zip(label_space.names, pixels, strict=False) if not count]
        if unseen:
            few = ', '.join(unseen[:MAX_NAMES]) + (', ...' if len(unseen) > MAX_NAMES else '')
            lines.append(f'  {len(unseen)} classes are not in the frames looked at: {few}')
    lines += [f'  problem: {check.scene_id}: {problem}' for check in checks for problem in check.problems]
    return '\n'.join(lines)


def contact_sheet(checks: Sequence[SceneCheck]) -> Image.Image | None:
    """One row per scene with labels laid over colour, at most 24 scenes, evenly spread; None if there is no picture."""
    drawn = [check for check in checks if check.pictures]
    if not drawn:
        return None
    drawn = [drawn[index] for index in spread_views(len(drawn), SHEET_ROWS)]
    width = max(picture.shape[1] for check in drawn for picture in check.pictures)
    cell_width, cell_height = width + GAP, HEIGHT + TITLE + GAP
    sheet = Image.new('RGB', (SHEET_COLUMNS * cell_width, len(drawn) * cell_height), 'white')
    draw = ImageDraw.Draw(sheet)
    for row, check in enumerate(drawn):
        draw.text((GAP, row * cell_height), f'{check.scene_id}: {check.num_frames} frames', fill='black')
        for column, picture in enumerate(check.pictures[:SHEET_COLUMNS]):
            sheet.paste(Image.fromarray(picture), (column * cell_width, row * cell_height + TITLE))
    return sheet


def _files(scene: SceneRecord) -> list[str]:
    paths = [path for frame in scene.frames for path in (frame.color, frame.depth, frame.instance)]
    return [path for path in [*paths, scene.mesh] if path is not None]


def _named(scene: SceneRecord, wrong: np.ndarray, what: str) -> list[str]:
    first = [scene.frames[index].id for index in np.flatnonzero(wrong)[:3]]
    return [f'{int(wrong.sum())} frames {what}, e.g. {", ".join(first)}'] if first else []


def _look_at_pairs(scene: SceneRecord, label_space: LabelSpace, num_pairs: int, check: SceneCheck) -> None:
    last, together = max(len(scene.frames) - 2, 0), 2 if scene.instances_across_views else 1
    for first in spread_views(last + 1, num_pairs):
        try:
            sample, images = _load(scene, scene.frames[first : first + together], label_space)
        except (OSError, ValueError) as error:
            if str(error) not in check.problems:  # a frame may be in two pairs
                check.problems.append(str(error))
            continue
        truth, labels = sample.gt_reconstruction, sample.gt_panoptic
        category, instance = labels.category.numpy(), labels.instance.numpy()
        check.pixels += np.bincount(category[0].ravel() % len(check.pixels), minlength=len(check.pixels))
        check.pictures.append(_overlay(images[0], category[0], instance[0]))
        points, depth = truth.points[0][truth.valid[0]], truth.depth[0][truth.valid[0]]
        check.depths.append(depth.median().item() if len(depth) else 0.0)
        if len(truth.valid) == 2 and len(points):
            seen, contradicted = seen_points(points, truth.depth[1], truth.intrinsics[1], truth.camera_to_world[1])
            check.overlap.append(seen.float().mean().item())
            check.contradictions.append(contradicted.float().mean().item())


def _load(scene: SceneRecord, frames: Sequence[FrameRecord], label_space: LabelSpace) -> tuple[SceneSample, np.ndarray]:
    width, height = frames[0].color_size
    results: dict[str, Any] = {'scene': scene, 'views': list(frames), 'label_space': label_space, 'backend_args': None}
    for step in (LoadViews(), ResizeCrop(size=(HEIGHT, max(1, round(HEIGHT * width / height)))), PackScene()):
        results = step.transform(results)
    images: torch.Tensor = results['inputs']
    return results['data_samples'].unpacked(), images.permute(0, 2, 3, 1).numpy()


def _overlay(image: np.ndarray, category: np.ndarray, instance: np.ndarray) -> np.ndarray:
    """Half picture, half label colour; void keeps the picture."""
    colors = np.where(instance[..., None] > 0, instance_colors(category, instance), category_colors(category))
    mixed = (image.astype(np.uint16) + colors) // 2
    return np.where(category[..., None] < 0, image, mixed).astype(np.uint8)
