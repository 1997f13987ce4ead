"""ScanNet as SIU3R's authors have processed it: 256x256 images with panoptic maps of 20 classes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pano3d.structures import LabelSpace

from .batch import ConversionSummary
from .posed_files import folders_of, numbered_files, read_intrinsics, read_jpeg, read_png, read_pose, relabelled
from .posed_scene import ObjectIds, PosedFrame, PosedScene, convert_posed_scenes
from .share import Share

SPLITS = ('train', 'val')


class Siu3rScene(PosedScene):
    """`<split>/<scene>` with `color`, `depth` (millimetres), `extrinsic` (camera to world), `panoptic` and
    `intrinsic.txt` (pixels).

    A panoptic pixel is class * 1000 + segment, the lowest byte in red; class 1 to 20 in the order of the benchmark,
    0 of either means void. Segments have the same number in all images.
    """

    source = 'siu3r_scannet'

    def __init__(self, scene_id: str, folder: Path) -> None:
        super().__init__(scene_id, folder)
        self._intrinsics = read_intrinsics(folder / 'intrinsic.txt')
        self._objects = ObjectIds()
        self._classes = LabelSpace.load('scannet20')

    def frame_names(self) -> list[str]:
        return numbered_files(self.folder / 'depth', '.png')

    def frame(self, name: str) -> PosedFrame | None:
        pose = read_pose(self.folder / 'extrinsic' / f'{name}.txt')
        if pose is None:
            return None
        color, size = read_jpeg(self.folder / 'color' / f'{name}.jpg')
        depth = read_png(self.folder / 'depth' / f'{name}.png', channels=1)
        path = self.folder / 'panoptic' / f'{name}.png'
        pixels = read_png(path, channels=3).astype(np.int64) @ (1, 256, 65536)
        if depth.shape != size[::-1] or pixels.shape != size[::-1]:
            raise ValueError(
                f'{self.folder}: frame {name}: color of {size[::-1]}, depth of {depth.shape} and panoptic map of '
                f'{pixels.shape} rows and columns; expected one size'
            )
        return PosedFrame(
            color=color,
            color_size=size,
            depth=depth,
            instance=relabelled(pixels, partial(self._object, path=path)),
            color_intrinsics=self._intrinsics,
            depth_intrinsics=self._intrinsics,
            camera_to_world=pose,
        )

    def instances(self) -> list[dict[str, Any]]:
        return [
            {
                'id': number,
                'raw_category': self._classes.names[category - 1],
                'nyu40_id': self._classes.source_ids[category - 1],
            }
            for (category, _), number in self._objects.items()
        ]

    def _object(self, value: int, *, path: Path) -> int:
        category, segment = divmod(value, 1000)
        if category > self._classes.num_classes:
            raise ValueError(f'{path}: class {category}: expected 0 to {self._classes.num_classes}')
        return self._objects.of(category, segment) if category and segment else 0


def convert_siu3r(
    root: str | Path, out: str | Path, *, num_workers: int = 1, share: Share | None = None, show_progress: bool = False
) -> ConversionSummary:
    """Convert the scenes in `root/train` and `root/val`; see `Siu3rScene` for the layout.

    Raises:
        ValueError: if neither folder has a scene, or both have the same.
    """
    root = Path(root)
    scenes_of = {split: folders_of(root / split) for split in SPLITS if (root / split).is_dir()}
    if not any(scenes_of.values()):
        raise ValueError(f'{root}: expected folders of scenes in `train` or `val`, found none')
    twice = sorted(set(scenes_of.get('train', [])) & set(scenes_of.get('val', [])))
    if twice:
        raise ValueError(f'{root}: expected every scene once, found {twice[0]} in both `train` and `val`')
    folder_of = {scene_id: root / split / scene_id for split, scenes in scenes_of.items() for scene_id in scenes}
    open_scene = partial(_open, folder_of=folder_of)
    return convert_posed_scenes(
        out, scenes_of, open_scene, num_workers=num_workers, share=share, show_progress=show_progress
    )


def _open(scene_id: str, *, folder_of: dict[str, Path]) -> Siu3rScene:
    return Siu3rScene(scene_id, folder_of[scene_id])
