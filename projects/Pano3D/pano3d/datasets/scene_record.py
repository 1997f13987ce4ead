"""Reading `scene.json`, the index of one converted scene (docs/scene_format.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmengine.fileio import get_text
from numpy.typing import NDArray

FORMAT = 'pano3d-scene'
VERSION = 1
RECONVERT = (
    'convert the scene again, for ScanNet with tools/prepare_scannet.py, or compare it with docs/scene_format.md if '
    'you wrote it yourself'
)


@dataclass(frozen=True, eq=False)
class FrameRecord:
    """One frame of a scene: where its images lie, and its cameras.

    Colour and depth share the pose, but neither size nor intrinsics; pixel (0, 0) is the centre of the top-left pixel.

    Args:
        id: number of the frame in the original recording, zero-padded.
        color, depth, instance: paths; `depth` is None where nothing was measured, `instance` where there is no
            annotation; the latter has the size of colour.
        color_size, depth_size: (width, height); without depth they are the same.
        color_intrinsics, depth_intrinsics: (3, 3), float64, pixels; without depth they are the same.
        camera_to_world: (4, 4), float64, OpenCV axes, metres.
    """

    id: str
    color: str
    depth: str | None
    instance: str | None
    color_size: tuple[int, int]
    depth_size: tuple[int, int]
    color_intrinsics: NDArray[np.float64]
    depth_intrinsics: NDArray[np.float64]
    camera_to_world: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SceneRecord:
    """One converted scene.

    Args:
        scene_id: its name.
        source: the release it was converted from, e.g. 'scannet_v2'.
        depth_scale: metres per unit of the depth images.
        frame_skip: every n-th frame of the recording was converted, starting with frame 0; 1 where that is not known.
        frames: in the order of the recording.
        instances: annotated objects, each with `id` > 0 and the ids that a `LabelSpace` reads.
        mesh: path of the annotated mesh (.npz), or None.
        overlap: path of the table of overlaps; the file is there only if it has been made.
        instances_across_views: whether an instance id means the same object in all images; false for sources that
            number the objects of each image anew.
        axis_alignment: (4, 4), float64, from the frame of the poses to one with +z up and walls along x and y; None
            where the release has none.
    """

    scene_id: str
    source: str
    depth_scale: float
    frame_skip: int
    frames: tuple[FrameRecord, ...]
    instances: tuple[Mapping[str, Any], ...]
    mesh: str | None
    overlap: str
    instances_across_views: bool
    axis_alignment: NDArray[np.float64] | None


def read_scene(folder: str, *, backend_args: dict[str, Any] | None = None) -> SceneRecord:
    """Read and check `<folder>/scene.json`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a scene of this format and version, or contradicts itself.
    """
    path = f'{folder}/scene.json'
    try:
        record = read_json(path, backend_args=backend_args)
    except FileNotFoundError as error:
        raise FileNotFoundError(f'{error}; {RECONVERT}') from error
    try:
        check_format(record, FORMAT, VERSION)
        return SceneRecord(
            scene_id=_of_type(record, 'scene_id', str),
            source=_of_type(record, 'source', str),
            depth_scale=_positive(record, 'depth_scale'),
            frame_skip=_frame_skip(record),
            frames=tuple(_read_frame(frame, folder) for frame in _of_type(record, 'frames', list)),
            instances=_read_instances(_of_type(record, 'instances', list)),
            mesh=None if record['mesh'] is None else _path(record, 'mesh', folder),
            overlap=f'{folder}/overlap.npz',
            instances_across_views=bool(record.get('instances_across_views', True)),
            axis_alignment=None if record.get('axis_alignment') is None else _matrix(record, 'axis_alignment', 4),
        )
    except (KeyError, TypeError, ValueError) as error:
        what = f'key {error} is missing' if isinstance(error, KeyError) else str(error)
        raise ValueError(f'{path}: {what}; {RECONVERT}') from error


def read_json(path: str, *, backend_args: dict[str, Any] | None = None) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        FileNotFoundError: if there is no such file (whatever error the storage backend has for it).
        ValueError: if it is no JSON object.
    """
    try:
        record = json.loads(get_text(path, backend_args=backend_args))
    except OSError as error:
        raise FileNotFoundError(f'{path}: cannot be read ({error})') from error
    except ValueError as error:  # both the JSON and the Unicode decoder's errors are ValueErrors
        raise ValueError(f'{path}: expected a JSON file, found {error}') from error
    if not isinstance(record, dict):
        raise ValueError(f'{path}: expected a JSON object, found {type(record).__name__}')
    return record


def check_format(record: Mapping[str, Any], name: str, version: int) -> None:
    """Refuse a record that does not say it is `name` in this `version`."""
    found = record.get('format'), record.get('version')
    if found != (name, version):
        raise ValueError(f'expected format {name!r} version {version}, found {found[0]!r} version {found[1]!r}')


def _read_frame(frame: Mapping[str, Any], folder: str) -> FrameRecord:
    frame_id = _of_type(frame, 'id', str)
    try:
        of_depth = 'color' if frame['depth'] is None else 'depth'
        return FrameRecord(
            id=frame_id,
            color=_path(frame, 'color', folder),
            depth=None if frame['depth'] is None else _path(frame, 'depth', folder),
            instance=None if frame['instance'] is None else _path(frame, 'instance', folder),
            color_size=_size(frame, 'color_size'),
            depth_size=_size(frame, f'{of_depth}_size'),
            color_intrinsics=_intrinsics(frame, 'color_intrinsics'),
            depth_intrinsics=_intrinsics(frame, f'{of_depth}_intrinsics'),
            camera_to_world=_matrix(frame, 'camera_to_world', 4),
        )
    except KeyError as error:
        raise ValueError(f'frame {frame_id}: key {error} is missing') from error
    except (TypeError, ValueError) as error:
        raise ValueError(f'frame {frame_id}: {error}') from error


def _read_instances(instances: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    ids = [_of_type(instance, 'id', int) for instance in instances]
    if len(set(ids)) != len(ids) or any(i <= 0 for i in ids):
        raise ValueError(f'instance ids must be positive and different from each other, found {sorted(ids)}')
    return tuple(instances)


def _of_type(record: Mapping[str, Any], key: str, kind: type) -> Any:
    value = record[key]
    if not isinstance(value, kind):
        raise TypeError(f'`{key}` must be of type {kind.__name__}, found {value!r}')
    return value


def _path(record: Mapping[str, Any], key: str, folder: str) -> str:
    return f'{folder}/{_of_type(record, key, str)}'


def _positive(record: Mapping[str, Any], key: str) -> float:
    value = float(record[key])
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f'`{key}` must be a positive number, found {value}')
    return value


def _frame_skip(record: Mapping[str, Any]) -> int:
    skip = record.get('frame_skip', 1)
    if not isinstance(skip, int) or skip < 1:
        raise ValueError(f'`frame_skip` must be a positive whole number, found {skip!r}')
    return skip


def _size(record: Mapping[str, Any], key: str) -> tuple[int, int]:
    size = record[key]
    if not (isinstance(size, list) and len(size) == 2 and all(isinstance(n, int) and n > 0 for n in size)):
        raise ValueError(f'`{key}` must be [width, height], found {size!r}')
    return size[0], size[1]


def _matrix(record: Mapping[str, Any], key: str, side: int) -> NDArray[np.float64]:
    matrix = np.asarray(record[key], dtype=np.float64)
    if matrix.shape != (side, side) or not np.isfinite(matrix).all():
        raise ValueError(f'`{key}` must be a finite {side}x{side} matrix, found {record[key]!r}')
    bottom = np.eye(side)[-1]
    if not (matrix[-1] == bottom).all():
        raise ValueError(f'the last row of `{key}` must be {bottom.tolist()}, found {matrix[-1].tolist()}')
    return matrix


def _intrinsics(record: Mapping[str, Any], key: str) -> NDArray[np.float64]:
    matrix = _matrix(record, key, 3)
    if not (matrix[0, 0] > 0 and matrix[1, 1] > 0 and matrix[0, 1] == 0 and matrix[1, 0] == 0):
        raise ValueError(f'`{key}` must have positive focal lengths and no skew, found {matrix.tolist()}')
    return matrix
