"""ScanNet as prepared for mmdet3d: `scannet_infos_*.pkl`, posed images, and labels of the points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from .batch import ConversionSummary
from .images import to_millimetres
from .mesh import read_mesh
from .plain_pickle import read_plain_pickle
from .posed_files import numbered_files, read_intrinsics, read_jpeg, read_pose
from .posed_scene import MAX_INSTANCES, PosedFrame, PosedScene, convert_posed_scenes
from .share import Share

if TYPE_CHECKING:
    from .rasterise import MeshRasteriser

SPLITS = ('train', 'val', 'test')
MAX_CLASS = 40


@dataclass(frozen=True, eq=False)
class Mmdet3dInfo:
    """What the converter needs of an entry of the .pkl file.

    Args:
        scene_id: its name.
        axis_alignment: 4x4, or None.
    """

    scene_id: str
    axis_alignment: list[list[float]] | None


class Mmdet3dScene(PosedScene):
    """`posed_images/<scene>` with numbered `.jpg`, a camera-to-world `.txt` for each and `intrinsic.txt`; the labels of
    the mesh's vertices in `semantic_mask` (NYU40) and `instance_mask` (objectId + 1), int64.

    There is no depth and there are no instance maps. Where `scans/<scene>` still has the mesh, both can be seen on it.
    Frames are numbered as they were extracted, which is not the number in the recording.
    """

    source = 'mmdet3d_scannet'

    def __init__(self, info: Mmdet3dInfo, root: Path, *, rasterise: bool) -> None:
        super().__init__(info.scene_id, root / 'posed_images' / info.scene_id)
        self._info = info
        self._root = root
        self._rasterise = rasterise
        self._intrinsics = read_intrinsics(self.folder / 'intrinsic.txt')
        self._vertices, self._colors = _read_points(root / 'points' / f'{info.scene_id}.bin')
        self._instance, self._records = self._read_labels()
        self._faces = self._read_faces()

    def settings(self) -> dict[str, Any]:
        return {'rasterise': self._rasterise}

    def source_files(self) -> dict[str, int]:
        labels = [self._root / kind / f'{self.scene_id}.bin' for kind in ('points', 'instance_mask', 'semantic_mask')]
        files = [*labels, self._mesh_path()]
        sizes = {path.relative_to(self._root).as_posix(): path.stat().st_size for path in files if path.is_file()}
        return {**super().source_files(), **sizes}

    def axis_alignment(self) -> list[list[float]] | None:
        return self._info.axis_alignment

    def mesh(self) -> dict[str, np.ndarray]:
        return {
            'vertices': self._vertices,
            'colors': self._colors,
            'faces': self._faces,
            'instance': self._instance,
        }

    def instances(self) -> list[dict[str, Any]]:
        return self._records

    def frame_names(self) -> list[str]:
        return numbered_files(self.folder, '.jpg')

    def frame(self, name: str) -> PosedFrame | None:
        pose = read_pose(self.folder / f'{name}.txt')
        if pose is None:
            return None
        color, size = read_jpeg(self.folder / f'{name}.jpg')
        depth, instance = np.zeros(size[::-1], np.uint16), None
        if self._rasterise:
            metres, seen = self._rasteriser.pinhole_view(self._intrinsics, size, pose)
            depth, instance = to_millimetres(metres), seen if self._records else None
        return PosedFrame(
            color=color,
            color_size=size,
            depth=depth,
            instance=instance,
            color_intrinsics=self._intrinsics,
            depth_intrinsics=self._intrinsics,
            camera_to_world=pose,
        )

    def _read_labels(self) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Instance of every vertex (N,) int32 and the instance records; none for scenes of the test split."""
        count = len(self._vertices)
        paths = [self._root / kind / f'{self.scene_id}.bin' for kind in ('instance_mask', 'semantic_mask')]
        if not any(path.is_file() for path in paths):
            return np.zeros(count, np.int32), []
        instance, category = (_read_mask(path, count) for path in paths)
        if instance.min(initial=0) < 0 or instance.max(initial=0) > MAX_INSTANCES:
            raise ValueError(f'{paths[0]}: expected ids from 0 to {MAX_INSTANCES}')
        if category.min(initial=0) < 0 or category.max(initial=0) > MAX_CLASS:
            raise ValueError(f'{paths[1]}: expected NYU40 classes from 0 to {MAX_CLASS}')
        records = []
        for number in np.unique(instance[instance > 0]).tolist():
            found = int(np.bincount(category[instance == number]).argmax())
            records.append({'id': number, 'raw_category': f'nyu40 {found}', 'nyu40_id': found or None})
        return instance.astype(np.int32), records

    def _read_faces(self) -> np.ndarray:
        """Faces of the release's mesh (F, 3), none where it is not there or the points are a random choice of it."""
        path = self._mesh_path()
        if not path.is_file():
            if self._rasterise:
                raise ValueError(f'{path}: not there; depth and instance maps are made from it')
            return np.zeros((0, 3), np.int32)
        mesh = read_mesh(path)
        if not np.array_equal(mesh.vertices, self._vertices):
            if self._rasterise:
                raise ValueError(
                    f'{path}: its {len(mesh.vertices)} vertices are not the {len(self._vertices)} points of the '
                    'prepared scene; was it prepared with a maximum number of points?'
                )
            return np.zeros((0, 3), np.int32)
        return mesh.faces

    def _mesh_path(self) -> Path:
        name = f'{self.scene_id}_vh_clean_2.ply'
        path = self._root / 'scans' / self.scene_id / name
        return path if path.is_file() else self._root / 'scans_test' / self.scene_id / name

    @cached_property
    def _rasteriser(self) -> MeshRasteriser:
        from .rasterise import MeshRasteriser  # Embree comes with the extra `data`; the rest works without

        return MeshRasteriser(self._vertices, self._faces, self._instance)


def convert_mmdet3d_scannet(
    root: str | Path,
    out: str | Path,
    *,
    rasterise: bool = False,
    num_workers: int = 1,
    share: Share | None = None,
    show_progress: bool = False,
) -> ConversionSummary:
    """Convert the scenes that `scannet_infos_{train,val,test}.pkl` list; see `Mmdet3dScene` for the layout.

    Args:
        root: folder of the .pkl files, of which not all need be there.
        out: folder of the stored scenes.
        rasterise: whether depth and instance maps are made from the mesh in `scans` (needs the extra `data`); otherwise
            depth is unknown everywhere and images have no labels.
        num_workers: processes; 1 means this one.
        share: the rank of this process among several of the same call, which tells what to start with.
        show_progress: draw a progress bar on stderr.

    Raises:
        ValueError: if there is no .pkl file or one is damaged or holds other than plain data.
    """
    root = Path(root)
    paths = {split: root / f'scannet_infos_{split}.pkl' for split in SPLITS}
    infos = {split: read_infos(path) for split, path in paths.items() if path.is_file()}
    if not infos:
        raise ValueError(f'{root}: expected at least one of {[path.name for path in paths.values()]}')
    scenes_of = {split: [info.scene_id for info in listed] for split, listed in infos.items()}
    info_of = {info.scene_id: info for listed in infos.values() for info in listed}
    open_scene = partial(_open, info_of=info_of, root=root, rasterise=rasterise)
    return convert_posed_scenes(
        out, scenes_of, open_scene, num_workers=num_workers, share=share, show_progress=show_progress
    )


def read_infos(path: Path) -> list[Mmdet3dInfo]:
    """The entries of a `scannet_infos_*.pkl`, in its layouts before and since version 1.1 of mmdet3d.

    Raises:
        ValueError: if it is of neither, damaged, or holds other than plain data.
    """
    content = read_plain_pickle(str(path))
    entries = content.get('data_list') if isinstance(content, dict) else content
    if not isinstance(entries, list) or not entries:
        raise ValueError(
            f'{path}: expected a list of scenes, or a dict with `data_list`, found {type(content).__name__}'
        )
    try:
        return [_read_info(entry) for entry in entries]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f'{path}: not a list of ScanNet scenes ({error!r})') from error


def _read_info(entry: Mapping[str, Any]) -> Mmdet3dInfo:
    if 'lidar_points' in entry:  # since 1.1
        name, matrix = entry['lidar_points']['lidar_path'], entry.get('axis_align_matrix')
    else:
        name, matrix = entry['pts_path'], entry.get('annos', {}).get('axis_align_matrix')
    if matrix is not None:
        matrix = np.asarray(matrix, np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise ValueError(f'{name}: axis_align_matrix: expected a finite 4x4 matrix, found {matrix.tolist()}')
    return Mmdet3dInfo(PurePosixPath(name).stem, None if matrix is None else matrix.tolist())


def _open(scene_id: str, *, info_of: Mapping[str, Mmdet3dInfo], root: Path, rasterise: bool) -> Mmdet3dScene:
    return Mmdet3dScene(info_of[scene_id], root, rasterise=rasterise)


def _read_points(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 3) float32 and colours (N, 3) uint8 of a file of float32 x, y, z, red, green, blue."""
    size = path.stat().st_size
    if size % 24:
        raise ValueError(f'{path}: expected points of 24 bytes, found {size} bytes')
    points = np.fromfile(path, np.float32).reshape(-1, 6)
    if not np.isfinite(points).all():
        raise ValueError(f'{path}: expected finite numbers')
    return points[:, :3].copy(), points[:, 3:].clip(0, 255).astype(np.uint8)


def _read_mask(path: Path, count: int) -> np.ndarray:
    size = path.stat().st_size
    if size != 8 * count:
        raise ValueError(f'{path}: expected {count} numbers of 8 bytes, one per point, found {size} bytes')
    return np.fromfile(path, np.int64)
