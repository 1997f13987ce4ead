"""A tiny ScanNet v2 release, written file by file."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pano3d.conversion import SensHeader, SensWriter

COLOR_SIZE, DEPTH_SIZE = (32, 24), (16, 12)
LABEL_TABLE = 'id\traw_category\tnyu40id\n1\twall\t1\n2\tchair\t5\n107\tpipe\t40\n107\tstructure\t38\n'
VERTICES = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1]]
FACES = [[0, 1, 2], [1, 2, 3], [3, 4, 5]]
SEGMENTS = [7, 7, 500, 3, 3, 9]
GROUPS = [
    {'id': 0, 'objectId': 0, 'label': 'chair', 'segments': [7]},
    {'id': 1, 'objectId': 1, 'label': 'unheard of', 'segments': [500]},
    {'id': 2, 'objectId': 0, 'label': 'chair', 'segments': [3]},
]
VERTEX_INSTANCES = [1, 1, 2, 1, 1, 0]


def encode(image: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def make_color(frame: int) -> bytes:
    noise = np.random.default_rng(frame).integers(0, 255, (COLOR_SIZE[1], COLOR_SIZE[0], 3), np.uint8)
    return encode(noise, 'JPEG')


def make_depth(frame: int) -> np.ndarray:
    return np.random.default_rng(frame).integers(0, 65536, (DEPTH_SIZE[1], DEPTH_SIZE[0]), np.uint16)


def make_pose(frame: int) -> np.ndarray:
    pose = np.eye(4, dtype=np.float32)
    pose[:3, 3] = np.random.default_rng(frame).normal(size=3)
    return pose


def make_instances(frame: int) -> np.ndarray:
    return np.random.default_rng(frame).integers(0, 3, (COLOR_SIZE[1], COLOR_SIZE[0]), np.uint8)


def intrinsics(size: tuple[int, int]) -> np.ndarray:
    matrix = np.eye(4, dtype=np.float32)
    matrix[0, 0] = matrix[1, 1] = size[0]
    matrix[:2, 2] = (size[0] - 1) / 2, (size[1] - 1) / 2
    return matrix


def write_sens(path: Path, *, num_frames: int, without_pose: tuple[int, ...]) -> None:
    header = SensHeader(
        color_size=COLOR_SIZE,
        depth_size=DEPTH_SIZE,
        color_intrinsics=intrinsics(COLOR_SIZE),
        depth_intrinsics=intrinsics(DEPTH_SIZE),
    )
    with SensWriter(path, header) as writer:
        for frame in range(num_frames):
            pose = np.full((4, 4), -np.inf, np.float32) if frame in without_pose else make_pose(frame)
            writer.add_frame(color=make_color(frame), depth=make_depth(frame), camera_to_world=pose)


def write_ply(path: Path) -> None:
    vertex = np.zeros(len(VERTICES), [('xyz', '<f4', 3), ('rgba', 'u1', 4)])
    vertex['xyz'], vertex['rgba'] = VERTICES, np.arange(len(VERTICES) * 4).reshape(-1, 4)
    face = np.zeros(len(FACES), [('count', 'u1'), ('indices', '<i4', 3)])
    face['count'], face['indices'] = 3, FACES
    properties = [*(f'float {axis}' for axis in 'xyz'), *(f'uchar {c}' for c in ('red', 'green', 'blue', 'alpha'))]
    lines = ['ply', 'format binary_little_endian 1.0', f'element vertex {len(vertex)}']
    lines += [f'property {text}' for text in properties]
    lines += [f'element face {len(face)}', 'property list uchar int vertex_indices', 'end_header\n']
    path.write_bytes('\n'.join(lines).encode() + vertex.tobytes() + face.tobytes())


class Release:
    """Writes scans, all with the same mesh and annotation; images and poses depend on the frame number."""

    vertices, faces, segments, vertex_instances = VERTICES, FACES, SEGMENTS, VERTEX_INSTANCES
    color_size, depth_size = COLOR_SIZE, DEPTH_SIZE
    encode = staticmethod(encode)
    color = staticmethod(make_color)
    depth = staticmethod(make_depth)
    pose = staticmethod(make_pose)
    instances = staticmethod(make_instances)

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / 'Tasks' / 'Benchmark').mkdir(parents=True)
        (root / 'scannetv2-labels.combined.tsv').write_text(LABEL_TABLE)

    def file(self, scene_id: str, ending: str) -> Path:
        return next(self.root.glob(f'scans*/{scene_id}')) / f'{scene_id}{ending}'

    def add(
        self, scene_id: str, split: str = 'train', *, num_frames: int = 5, without_pose: tuple[int, ...] = ()
    ) -> None:
        folder = self.root / ('scans_test' if split == 'test' else 'scans') / scene_id
        folder.mkdir(parents=True)
        with open(self.root / 'Tasks' / 'Benchmark' / f'scannetv2_{split}.txt', 'a') as file:
            file.write(scene_id + '\n')
        write_sens(folder / f'{scene_id}.sens', num_frames=num_frames, without_pose=without_pose)
        write_ply(folder / f'{scene_id}_vh_clean_2.ply')
        if split == 'test':
            (folder / f'{scene_id}.txt').write_text('sceneType = Office\n')
            return
        alignment = '0 -1 0 2 1 0 0 3 0 0 1 -0.5 0 0 0 1'
        (folder / f'{scene_id}.txt').write_text(f'axisAlignment = {alignment}\nsceneType = Office\n')
        segments = {'sceneId': scene_id, 'segIndices': SEGMENTS}
        (folder / f'{scene_id}_vh_clean_2.0.010000.segs.json').write_text(json.dumps(segments))
        (folder / f'{scene_id}.aggregation.json').write_text(json.dumps({'segGroups': GROUPS}))
        self.write_instance_maps(scene_id, {frame: encode(make_instances(frame), 'PNG') for frame in range(num_frames)})

    def write_instance_maps(self, scene_id: str, images: dict[int, bytes]) -> None:
        with zipfile.ZipFile(self.file(scene_id, '_2d-instance-filt.zip'), 'w') as archive:
            for frame, data in images.items():
                archive.writestr(f'instance-filt/{frame}.png', data)


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return Release(tmp_path / 'raw')
