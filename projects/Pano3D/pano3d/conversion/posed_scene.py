"""What the processed data of other groups have in common: folders of images with poses, turned into stored scenes."""

from __future__ import annotations

import io
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from .batch import ConversionSummary, SceneResult, run_scenes
from .images import check_jpeg, encode_png
from .scene_store import ConversionReport, finished_scene, new_scene, scene_folder, write_scene_record, write_split

MAX_PIXELS = 50_000_000
MAX_INSTANCES = 65535  # ids must fit into uint16

_FRAME_ID = re.compile(r'[A-Za-z0-9_-]+')


@dataclass(frozen=True, eq=False)
class PosedFrame:
    """One frame, ready to be stored; see docs/scene_format.md.

    Args:
        color: a JPEG file.
        color_size: (width, height).
        depth: (h, w) uint16 in units of the scene, 0 = unknown.
        instance: (H, W) of the colour image, ids of the scene, 0 = nothing; None if nothing is known.
        color_intrinsics, depth_intrinsics: (3, 3), pixels; pixel (0, 0) is the centre of the top-left pixel.
        camera_to_world: (4, 4), OpenCV axes, metres.
    """

    color: bytes
    color_size: tuple[int, int]
    depth: np.ndarray
    instance: np.ndarray | None
    color_intrinsics: np.ndarray
    depth_intrinsics: np.ndarray
    camera_to_world: np.ndarray


class PosedScene(ABC):
    """A scene in somebody's format.

    Args:
        scene_id: its name.
        folder: where its files lie.
    """

    source: str
    depth_scale = 0.001
    instances_across_views = True

    def __init__(self, scene_id: str, folder: Path) -> None:
        if not folder.is_dir():
            raise ValueError(f'{folder}: no such folder, but scene {scene_id} is listed')
        self.scene_id = scene_id
        self.folder = folder

    @abstractmethod
    def frame_names(self) -> list[str]:
        """Names of all frames, in their order."""

    def frame_id(self, name: str) -> str:
        """Id of a stored frame: the number in its name with six digits."""
        return f'{int(name):06d}'

    @abstractmethod
    def frame(self, name: str) -> PosedFrame | None:
        """One frame; None if it has no pose.

        Raises:
            ValueError, OSError: if a file of it is missing or damaged; the message names it.
        """

    @abstractmethod
    def instances(self) -> list[dict[str, Any]]:
        """Records of all objects, ordered by id; called after the frames."""

    def settings(self) -> dict[str, Any]:
        """Further keys of `scene.json`; other values mean that the scene is converted again."""
        return {}

    def axis_alignment(self) -> list[list[float]] | None:
        return None

    def mesh(self) -> dict[str, np.ndarray] | None:
        """Arrays of `mesh.npz`."""
        return None

    def source_files(self) -> dict[str, int]:
        """Bytes of every file in the folder, by path; tells whether the scene has changed since it was converted."""
        files = (path for path in sorted(self.folder.rglob('*')) if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path.stat().st_size for path in files}


class ObjectIds:
    """Numbers the objects of a scene from 1, in the order in which they are met."""

    def __init__(self) -> None:
        self._ids: dict[tuple[Any, ...], int] = {}

    def of(self, *key: Any) -> int:
        """The id of the object that `key` names.

        Raises:
            ValueError: if there are more objects than ids.
        """
        if len(self._ids) >= MAX_INSTANCES and key not in self._ids:
            raise ValueError(f'more than {MAX_INSTANCES} objects in one scene')
        return self._ids.setdefault(key, len(self._ids) + 1)

    def items(self) -> Sequence[tuple[tuple[Any, ...], int]]:
        """Pairs of key and id, ordered by id."""
        return list(self._ids.items())


def convert_posed_scenes(
    out: str | Path,
    scenes_of: Mapping[str, Sequence[str]],
    open_scene: Callable[[str], PosedScene],
    *,
    num_workers: int,
    show_progress: bool,
) -> ConversionSummary:
    """Convert scenes and write the lists of the finished ones; `open_scene` must be picklable.

    Raises:
        ValueError: if `num_workers` is less than 1 or there is no scene.
    """
    if num_workers < 1:
        raise ValueError(f'`num_workers` must be at least 1, got {num_workers}')
    scene_ids = list(dict.fromkeys(scene_id for scenes in scenes_of.values() for scene_id in scenes))
    if not scene_ids:
        raise ValueError('there is no scene to convert')
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    convert = partial(_convert, out=out, open_scene=open_scene)
    summary = run_scenes(scene_ids, convert, num_workers=num_workers, show_progress=show_progress)
    num_frames = {result.scene_id: result.num_frames for result in summary.finished}
    for split, scenes in scenes_of.items():
        write_split(out, split, [(scene_id, num_frames[scene_id]) for scene_id in scenes if scene_id in num_frames])
    return summary


def _convert(scene_id: str, *, out: Path, open_scene: Callable[[str], PosedScene]) -> SceneResult:
    scene_folder(out, scene_id)  # refuses names that would lead out of the folder, before anything is read
    scene = open_scene(scene_id)
    expected = {'source': scene.source, 'source_files': scene.source_files(), **scene.settings()}
    stored = finished_scene(out, scene_id)
    if stored and all(stored.get(key) == value for key, value in expected.items()):
        return SceneResult(scene_id, num_frames=len(stored['frames']), reused=True)
    report = ConversionReport()
    with new_scene(out, scene_id) as folder:
        frames = _store_frames(scene, folder, report)
        mesh = scene.mesh()
        if mesh is not None:
            np.savez(folder / 'mesh.npz', **mesh)
        report.warnings = [warning.replace(f'{scene.folder}{os.sep}', '') for warning in report.warnings]
        record = {
            'scene_id': scene_id,
            **expected,
            'depth_scale': scene.depth_scale,
            'axis_alignment': scene.axis_alignment(),
            'instances_across_views': scene.instances_across_views,
            'frames': frames,
            'instances': scene.instances(),
            'mesh': None if mesh is None else 'mesh.npz',
            'report': asdict(report),
        }
        write_scene_record(folder, record)
    return SceneResult(scene_id, num_frames=len(frames), warnings=tuple(report.warnings))


def _store_frames(scene: PosedScene, folder: Path, report: ConversionReport) -> list[dict[str, Any]]:
    for kind in ('color', 'depth', 'instance'):
        (folder / kind).mkdir()
    names, records = scene.frame_names(), []
    ids = [scene.frame_id(name) for name in names]
    if len(set(ids)) < len(ids) or not all(_FRAME_ID.fullmatch(frame_id) for frame_id in ids):
        raise ValueError(
            f'{scene.folder}: expected different frame ids of letters, digits, `_` and `-`, found {ids[:5]}'
        )
    report.frames_total = len(names)
    for name, frame_id in zip(names, ids, strict=True):
        try:
            frame = scene.frame(name)
        except (ValueError, OSError) as error:
            report.frames_damaged.append(frame_id)
            report.warnings.append(f'{error}; the frame is left out')
            continue
        if frame is None:
            report.frames_without_pose.append(frame_id)
            continue
        if frame.instance is None:
            report.instance_maps_missing.append(frame_id)
        records.append({'id': frame_id, **_store(frame, frame_id, folder)})
    if not records:
        reasons = '; '.join(report.warnings[:3]) or 'none is damaged'
        raise ValueError(
            f'{scene.folder}: no usable frame among {len(names)}: {len(report.frames_without_pose)} have no pose; '
            f'{reasons}'
        )
    return records


def _store(frame: PosedFrame, frame_id: str, folder: Path) -> dict[str, Any]:
    color, depth, instance = f'color/{frame_id}.jpg', f'depth/{frame_id}.png', f'instance/{frame_id}.png'
    (folder / color).write_bytes(frame.color)
    (folder / depth).write_bytes(encode_png(frame.depth))
    if frame.instance is not None:
        (folder / instance).write_bytes(encode_png(frame.instance.astype(np.uint16)))
    return {
        'color': color,
        'depth': depth,
        'instance': None if frame.instance is None else instance,
        'color_size': list(frame.color_size),
        'depth_size': [frame.depth.shape[1], frame.depth.shape[0]],
        'color_intrinsics': frame.color_intrinsics.tolist(),
        'depth_intrinsics': frame.depth_intrinsics.tolist(),
        'camera_to_world': frame.camera_to_world.tolist(),
    }


def read_jpeg(path: Path) -> tuple[bytes, tuple[int, int]]:
    """The bytes of a JPEG file that can be decoded to its end, and its (width, height).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or of another kind.
    """
    data = path.read_bytes()
    try:
        with Image.open(io.BytesIO(data), formats=['JPEG']) as image:
            size = image.size
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f'{path}: not a JPEG image ({error})') from error
    try:
        check_jpeg(data, size)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error
    return data, size


def read_png(path: Path, *, channels: int) -> np.ndarray:
    """A PNG file of 1 channel as (H, W) uint16, or of 3 channels as (H, W, 3) uint8, RGB.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, of another kind or of more than 50 million pixels.
    """
    modes = {1: ('L', 'I;16', 'I;16B', 'I'), 3: ('RGB',)}[channels]
    try:
        with Image.open(io.BytesIO(path.read_bytes()), formats=['PNG']) as image:
            if image.mode not in modes or image.width * image.height > MAX_PIXELS:
                raise ValueError(
                    f'expected {channels} channels and at most {MAX_PIXELS} pixels, found mode {image.mode} of '
                    f'{image.width}x{image.height}'
                )
            pixels = np.asarray(image)
    except FileNotFoundError:
        raise
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f'{path}: not a PNG image of the kind that belongs here ({error})') from error
    return pixels if channels == 3 else pixels.astype(np.uint16)


def read_matrix(path: Path) -> np.ndarray:
    """A text file of numbers, a 3x3 or 4x4 matrix; float64, may be inf.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not such a matrix.
    """
    words = path.read_text(encoding='utf-8', errors='replace').split()
    side = {9: 3, 16: 4}.get(len(words))
    if side is None:
        raise ValueError(f'{path}: expected a matrix of 9 or 16 numbers, found {len(words)}')
    try:
        return np.array([float(word) for word in words]).reshape(side, side)
    except ValueError as error:
        raise ValueError(f'{path}: expected a matrix, but {error}') from error


def read_pose(path: Path) -> np.ndarray | None:
    """A 4x4 camera-to-world matrix; None if it is not finite, as where tracking has failed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a 4x4 matrix with the last row 0 0 0 1.
    """
    pose = read_matrix(path)
    if not np.isfinite(pose).all():
        return None
    if pose.shape != (4, 4) or not np.allclose(pose[3], (0, 0, 0, 1)):
        raise ValueError(f'{path}: expected a 4x4 matrix with the last row 0 0 0 1, found {pose.tolist()}')
    pose[3] = (0, 0, 0, 1)
    return pose


def read_intrinsics(path: Path) -> np.ndarray:
    """A (3, 3) camera matrix from a 3x3 or 4x4 file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no camera matrix without skew.
    """
    return checked_intrinsics(read_matrix(path)[:3, :3], str(path))


def checked_intrinsics(matrix: np.ndarray, where: str) -> np.ndarray:
    """The camera matrix (3, 3), if it is one without skew.

    Raises:
        ValueError: if not.
    """
    good = np.isfinite(matrix).all() and matrix[0, 0] > 0 and matrix[1, 1] > 0
    if not good or matrix[0, 1] != 0 or matrix[1, 0] != 0 or not np.array_equal(matrix[2], (0, 0, 1)):
        raise ValueError(f'{where}: expected a camera matrix without skew, found {matrix.tolist()}')
    return matrix


def numbered_files(folder: Path, ending: str) -> list[str]:
    """Stems of the files of a folder that are numbers, ascending.

    Raises:
        ValueError: if there is no such folder or file.
    """
    stems = [path.stem for path in folder.glob(f'*{ending}') if path.stem.isdecimal()] if folder.is_dir() else []
    if not stems:
        raise ValueError(f'{folder}: expected numbered {ending} files, found none')
    return sorted(stems, key=int)


def relabelled(values: np.ndarray, id_of: Callable[[int], int]) -> np.ndarray:
    """A map of arbitrary whole numbers (H, W) as ids (H, W) uint16; `id_of` is asked once per number."""
    found, inverse = np.unique(values, return_inverse=True)
    return np.array([id_of(int(value)) for value in found], np.uint16)[inverse].reshape(values.shape)


def folders_of(root: Path) -> list[str]:
    """Names of the folders in a folder, sorted."""
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith('.'))
