"""ScanNet++ as PanSt3R's tool leaves it: pinhole images of both cameras with depth and panoptic maps."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .batch import ConversionSummary
from .posed_files import checked_intrinsics, checked_pose, read_arrays, read_jpeg, read_png, relabelled
from .posed_scene import MAX_INSTANCES, PosedFrame, PosedScene, convert_posed_scenes
from .share import Share

METADATA = 'all_metadata.npz'


@dataclass(frozen=True, eq=False)
class Panst3rCameras:
    """The frames of one scene according to `all_metadata.npz`.

    Args:
        names: of the F frames.
        intrinsics: (F, 3, 3), pixels; pixel (0, 0) is the centre of the top-left pixel.
        poses: (F, 4, 4), camera to world, metres.
        class_factor: a panoptic value is instance * class_factor + class.
    """

    names: tuple[str, ...]
    intrinsics: np.ndarray
    poses: np.ndarray
    class_factor: int


class Panst3rScene(PosedScene):
    """`<scene>` with `images`, `depth` (millimetres), `panoptic` and `segments.json`.

    A panoptic value, its lowest byte in red, is instance * 256 + class; 0 means nothing. Classes are positions in
    `categories.json`, the benchmark's list. Objects have the same number in all images.
    """

    source = 'panst3r_scannetpp'

    def __init__(self, scene_id: str, folder: Path, cameras: Panst3rCameras, classes: list[str]) -> None:
        super().__init__(scene_id, folder)
        self._cameras = cameras
        self._classes = classes
        self._class_of: dict[int, int] = {}
        self._segments = read_segments(folder / 'segments.json')

    def frame_names(self) -> list[str]:
        return list(self._cameras.names)

    def frame_id(self, name: str) -> str:
        return name

    def frame(self, name: str) -> PosedFrame | None:
        position = self._cameras.names.index(name)
        pose = self._cameras.poses[position]
        if not np.isfinite(pose).all():
            return None
        pose = checked_pose(pose, f'{METADATA}: {self.scene_id}: {name}')
        color, size = read_jpeg(self.folder / 'images' / f'{name}.jpg')
        depth = read_png(self.folder / 'depth' / f'{name}.png', channels=1)
        path = self.folder / 'panoptic' / f'{name}.png'
        pixels = read_png(path, channels=3).astype(np.int64) @ (1, 256, 65536)
        if depth.shape != size[::-1] or pixels.shape != size[::-1]:
            raise ValueError(
                f'{self.folder}: frame {name}: color of {size[::-1]}, depth of {depth.shape} and panoptic map of '
                f'{pixels.shape} rows and columns; expected one size'
            )
        intrinsics = checked_intrinsics(self._cameras.intrinsics[position], f'{METADATA}: {self.scene_id}: {name}')
        return PosedFrame(
            color=color,
            color_size=size,
            depth=depth,
            instance=relabelled(pixels, partial(self._object, path=path)),
            color_intrinsics=intrinsics,
            depth_intrinsics=intrinsics,
            camera_to_world=pose,
        )

    def instances(self) -> list[dict[str, Any]]:
        return [
            {
                'id': number,
                'raw_category': self._segments.get(number, (self._classes[category], False))[0],
                'scannetpp_id': category,
                'crowd': self._segments.get(number, ('', False))[1],
            }
            for number, category in sorted(self._class_of.items())
        ]

    def _object(self, value: int, *, path: Path) -> int:
        number, category = divmod(value, self._cameras.class_factor)
        if number == 0:
            return 0
        if category >= len(self._classes) or number > MAX_INSTANCES:
            raise ValueError(
                f'{path}: object {number} of class {category}: expected classes below {len(self._classes)} and at most '
                f'{MAX_INSTANCES} objects'
            )
        if self._class_of.setdefault(number, category) != category:
            raise ValueError(f'{path}: object {number} has class {category}, elsewhere {self._class_of[number]}')
        return number


def convert_panst3r(
    root: str | Path, out: str | Path, *, num_workers: int = 1, share: Share | None = None, show_progress: bool = False
) -> ConversionSummary:
    """Convert the scenes of `root/all_metadata.npz`, and write the classes as `out/label_space.json`.

    The stored intrinsics are in COLMAP's convention, whose pixel centres are at 0.5.

    Args:
        root: folder with `all_metadata.npz`, `categories.json` and the scenes; see `Panst3rScene`.
        out: folder of the stored scenes; all are in the list `train`.
        num_workers: processes; 1 means this one.
        share: the rank of this process among several of the same call, which tells what to start with.
        show_progress: draw a progress bar on stderr.

    Raises:
        ValueError: if one of the two files is missing or damaged.
    """
    root = Path(root)
    classes = read_categories(root / 'categories.json')
    cameras = read_metadata(root / METADATA)
    label_space = {'name': 'scannetpp100', 'source_key': 'scannetpp_id', 'classes': classes}
    names = [str(entry['name']) for entry in classes]
    open_scene = partial(_open, root=root, cameras=cameras, classes=names)
    return convert_posed_scenes(
        out,
        {'train': list(cameras)},
        open_scene,
        num_workers=num_workers,
        share=share,
        show_progress=show_progress,
        more={'label_space.json': label_space},
    )


def _open(scene_id: str, *, root: Path, cameras: dict[str, Panst3rCameras], classes: list[str]) -> Panst3rScene:
    return Panst3rScene(scene_id, root / scene_id, cameras[scene_id], classes)


def read_metadata(path: Path) -> dict[str, Panst3rCameras]:
    try:
        data = read_arrays(path)
        scenes, owner, images = data['scenes'].tolist(), data['sceneids'], data['images']
        intrinsics, poses = data['intrinsics'].astype(np.float64), data['trajectories'].astype(np.float64)
        factor = int(data.get('cls_sep', 256))
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise ValueError(f'{path}: not the metadata of processed scenes ({error!r})') from error
    count = len(owner)
    shapes = (images.shape, intrinsics.shape, poses.shape)
    if shapes != ((count,), (count, 3, 3), (count, 4, 4)) or factor < 1 or images.dtype.kind != 'U':
        raise ValueError(
            f'{path}: expected names, 3x3 intrinsics and 4x4 trajectories of {count} images and a positive cls_sep, '
            f'found shapes {shapes} and {factor}'
        )
    intrinsics[:, :2, 2] -= 0.5
    found = {}
    for number, scene_id in enumerate(scenes):
        mine = np.flatnonzero(owner == number)
        found[str(scene_id)] = Panst3rCameras(tuple(images[mine].tolist()), intrinsics[mine], poses[mine], factor)
    return found


def read_categories(path: Path) -> list[dict[str, Any]]:
    """The classes of a label-space file."""
    try:
        entries = json.loads(path.read_bytes())
        ids = [entry['id'] for entry in entries]
        if ids != list(range(len(entries))) or not entries:
            raise ValueError(f'expected ids 0, 1, 2, ..., found {ids[:5]}')
        return [{'name': str(entry['name']), 'id': entry['id'], 'stuff': not entry['isthing']} for entry in entries]
    except (KeyError, TypeError, ValueError, OSError, RecursionError) as error:
        raise ValueError(f'{path}: not a list of classes with id, name and isthing ({error!r})') from error


def read_segments(path: Path) -> dict[int, tuple[str, bool]]:
    """The annotator's word and whether it is a crowd, by object; empty if there is no such file."""
    if not path.is_file():
        return {}
    try:
        entries = json.loads(path.read_bytes())
        return {int(entry['instance_id']): (str(entry['orig_class_name']), bool(entry['iscrowd'])) for entry in entries}
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f'{path}: not a list of objects with instance_id, orig_class_name and iscrowd ({error!r})'
        ) from error
