"""`scannet_frames_25k`: every hundredth frame of ScanNet v2 as its authors offer it for the 2D benchmarks."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .batch import ConversionSummary
from .posed_files import folders_of, numbered_files, read_intrinsics, read_jpeg, read_png, read_pose, relabelled
from .posed_scene import ObjectIds, PosedFrame, PosedScene, convert_posed_scenes
from .scannet_scan import read_splits
from .scannet_splits import official_splits
from .share import Share


class Scannet25kScene(PosedScene):
    """`<scene>` with `color`, `depth` (millimetres), `pose` (camera to world), `instance` and the two
    `intrinsics_{color,depth}.txt`.

    An instance pixel is NYU40 class * 1000 + number, or the class alone. The numbers are counted in each image anew, so
    that an object has another id in every image: good for one view at a time.
    """

    source = 'scannet_frames_25k'
    instances_across_views = False

    def __init__(self, scene_id: str, folder: Path) -> None:
        super().__init__(scene_id, folder)
        self._color = read_intrinsics(folder / 'intrinsics_color.txt')
        self._depth = read_intrinsics(folder / 'intrinsics_depth.txt')
        self._objects = ObjectIds()

    def frame_names(self) -> list[str]:
        return numbered_files(self.folder / 'color', '.jpg')

    def frame(self, name: str) -> PosedFrame | None:
        pose = read_pose(self.folder / 'pose' / f'{name}.txt')
        if pose is None:
            return None
        color, size = read_jpeg(self.folder / 'color' / f'{name}.jpg')
        return PosedFrame(
            color=color,
            color_size=size,
            depth=read_png(self.folder / 'depth' / f'{name}.png', channels=1),
            instance=self._instance(name, size),
            color_intrinsics=self._color,
            depth_intrinsics=self._depth,
            camera_to_world=pose,
        )

    def instances(self) -> list[dict[str, Any]]:
        return [
            {'id': number, 'raw_category': f'nyu40 {category}', 'nyu40_id': category}
            for (_, category, _), number in self._objects.items()
        ]

    def _instance(self, name: str, size: tuple[int, int]) -> np.ndarray | None:
        path = self.folder / 'instance' / f'{name}.png'
        if not path.parent.is_dir():  # the test scenes have no annotation
            return None
        pixels = read_png(path, channels=1)
        rows = (np.arange(size[1]) + 0.5) * pixels.shape[0] / size[1]
        columns = (np.arange(size[0]) + 0.5) * pixels.shape[1] / size[0]
        pixels = pixels[np.ix_(rows.astype(int), columns.astype(int))]
        return relabelled(pixels, partial(self._object, name=name))

    def _object(self, value: int, *, name: str) -> int:
        category, number = divmod(value, 1000) if value >= 1000 else (value, 0)
        return self._objects.of(name, category, number) if category else 0


def convert_scannet_25k(
    root: str | Path,
    out: str | Path,
    *,
    splits: str | Path | None = None,
    num_workers: int = 1,
    share: Share | None = None,
    show_progress: bool = False,
) -> ConversionSummary:
    """Convert the scenes of a folder `scannet_frames_25k`; see `Scannet25kScene` for the layout.

    Args:
        root: the folder.
        out: folder of the stored scenes.
        splits: folder with the official `scannetv2_{train,val,test}.txt`, of which scenes that are not there are passed
            over; None for the same by the numbers of the scenes.
        num_workers: processes; 1 means this one.
        share: the rank of this process among several of the same call, which tells what to start with.
        show_progress: draw a progress bar on stderr.

    Raises:
        ValueError: if there is no scene, a folder has another name than a scan, or there is no list in `splits`.
    """
    root = Path(root)
    there = folders_of(root)
    if splits is None:
        scenes_of = official_splits(there)
    else:
        lists = read_splits(Path(splits))
        scenes_of = {split: [scene for scene in scenes if scene in set(there)] for split, scenes in lists.items()}
    if not any(scenes_of.values()):
        raise ValueError(f'{root}: expected folders of scenes, found none that is in a list')
    open_scene = partial(_open, root=root)
    return convert_posed_scenes(
        out, scenes_of, open_scene, num_workers=num_workers, share=share, show_progress=show_progress
    )


def _open(scene_id: str, *, root: Path) -> Scannet25kScene:
    return Scannet25kScene(scene_id, root / scene_id)
