"""What the processed data of other groups have in common: folders of images with poses, turned into stored scenes."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .batch import ConversionSummary, SceneResult
from .images import encode_png
from .scene_store import ConversionReport, finished_scene, new_scene, write_scene_record
from .share import Share
from .sharing import convert_scenes

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

    def identity(self) -> dict[str, Any]:
        """What a stored scene depends on; where one of it differs the scene is converted again."""
        return {'source': self.source, 'source_files': self.source_files(), **self.settings()}


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
    share: Share | None,
    show_progress: bool,
    more: Mapping[str, Mapping[str, object]] | None = None,
) -> ConversionSummary:
    """Convert scenes as `convert_scenes` does: restartable, each by one of all processes that run for `out`.

    Args:
        out: folder of the stored scenes.
        scenes_of: scene ids by split.
        open_scene: opens one scene; must be picklable.
        num_workers: processes; 1 means this one.
        share: which scenes to start with; None if there is no other process.
        show_progress: draw a progress bar on stderr.
        more: further JSON files beside the lists, by name.

    Raises:
        ValueError: if `num_workers` is less than 1 or there is no scene.
    """
    if num_workers < 1:
        raise ValueError(f'`num_workers` must be at least 1, got {num_workers}')
    if not any(scenes_of.values()):
        raise ValueError('there is no scene to convert')
    out = Path(out)
    return convert_scenes(
        out,
        scenes_of,
        partial(_convert, out=out, open_scene=open_scene),
        partial(_find_stored, out=out, open_scene=open_scene),
        share=share or Share(),
        num_workers=num_workers,
        show_progress=show_progress,
        more=more,
    )


def _find_stored(scene_id: str, *, out: Path, open_scene: Callable[[str], PosedScene]) -> SceneResult | None:
    """The result of a scene that is stored from the same files with the same settings; None if none is."""
    stored = finished_scene(out, scene_id)  # refuses names that would lead out of the folder, before anything is read
    return None if stored is None else _unchanged(stored, scene_id, open_scene(scene_id).identity())


def _unchanged(stored: Mapping[str, Any] | None, scene_id: str, identity: Mapping[str, Any]) -> SceneResult | None:
    if stored is None or any(stored.get(key) != value for key, value in identity.items()):
        return None
    return SceneResult(scene_id, num_frames=len(stored['frames']), reused=True)


def _convert(scene_id: str, *, out: Path, open_scene: Callable[[str], PosedScene]) -> SceneResult:
    stored = finished_scene(out, scene_id)  # refuses names that would lead out of the folder, before anything is read
    scene = open_scene(scene_id)
    identity = scene.identity()
    kept = _unchanged(stored, scene_id, identity)
    if kept is not None:
        return kept
    report = ConversionReport()
    with new_scene(out, scene_id) as folder:
        frames = _store_frames(scene, folder, report)
        mesh = scene.mesh()
        if mesh is not None:
            np.savez(folder / 'mesh.npz', **mesh)
        report.warnings = [warning.replace(f'{scene.folder}{os.sep}', '') for warning in report.warnings]
        record = {
            'scene_id': scene_id,
            **identity,
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
