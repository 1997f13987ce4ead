"""A room that is known by construction, seen by cameras of our choice, and stored in the scene format.

The room is the box [0, 4] x [0, 3] x [0, 2.5] m, z up. Colour is a linear function of the position on its faces, so a
colour says where a pixel looks to.
"""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOM = np.array([4.0, 3.0, 2.5])
# Faces x=0, x=4, y=0, y=3, z=0, z=2.5. The wall x=4 is a curtain; y=0 is not annotated; the ceiling has no ScanNet20
# class; the 'gizmo' y=3 is not in the label table at all.
INSTANCE_OF_FACE = np.array([1, 2, 0, 5, 3, 4])
INSTANCES = [
    {'id': 1, 'raw_category': 'wall', 'scannet_id': 1, 'nyu40_id': 1},
    {'id': 2, 'raw_category': 'curtain', 'scannet_id': 21, 'nyu40_id': 16},
    {'id': 3, 'raw_category': 'floor', 'scannet_id': 3, 'nyu40_id': 2},
    {'id': 4, 'raw_category': 'ceiling', 'scannet_id': 41, 'nyu40_id': 22},
    {'id': 5, 'raw_category': 'gizmo', 'scannet_id': None, 'nyu40_id': None},
]
COLOR_SIZE, DEPTH_SIZE = (64, 48), (40, 32)  # (width, height)
COLOR_INTRINSICS = np.array([[50.0, 0, 30.5], [0, 51.0, 24.25], [0, 0, 1]])
DEPTH_INTRINSICS = np.array([[34.0, 0, 20.25], [0, 33.0, 15.0], [0, 0, 1]])


class Room:
    """Ray casting into the box."""

    size = ROOM

    def camera(self, index: int) -> np.ndarray:
        """A camera in the middle that turns and looks further up with the index, (4, 4) camera to world."""
        angle = 0.7 + 0.35 * index
        forward = np.array([np.cos(angle), np.sin(angle), -0.2537 + 0.1 * index])
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, [0, 0, 1.0])
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
        pose[:3, 3] = [1.8 + 0.05 * index, 1.4, 1.2 + 0.03 * index]
        return pose

    def cast(self, pixels: np.ndarray, intrinsics: np.ndarray, pose: np.ndarray) -> tuple[np.ndarray, ...]:
        """Depth (...), point in the world (..., 3) and instance id (...) of pixels (..., 2) as (x, y)."""
        rays = np.concatenate([pixels, np.ones_like(pixels[..., :1])], -1) @ np.linalg.inv(intrinsics).T
        directions = rays @ pose[:3, :3].T  # z of the ray is 1, so the ray parameter is the depth
        walls = np.where(directions > 0, ROOM, 0.0)
        distances = (walls - pose[:3, 3]) / directions
        axis = distances.argmin(-1)
        depth = np.take_along_axis(distances, axis[..., None], -1)[..., 0]
        side = np.take_along_axis(directions > 0, axis[..., None], -1)[..., 0]
        return depth, pose[:3, 3] + directions * depth[..., None], INSTANCE_OF_FACE[2 * axis + side]

    def image(self, size: tuple[int, int], intrinsics: np.ndarray, pose: np.ndarray) -> tuple[np.ndarray, ...]:
        """`cast` for all pixels of an image of (width, height)."""
        pixels = np.stack(np.meshgrid(np.arange(size[0]), np.arange(size[1])), -1).astype(float)
        return self.cast(pixels, intrinsics, pose)

    def color_of(self, points: np.ndarray) -> np.ndarray:
        """RGB in [0, 255] of points (..., 3), not rounded."""
        return 20 + 215 * points / ROOM


def write_scene(root: Path, scene_id: str, num_frames: int) -> None:
    folder = root / 'scenes' / scene_id
    for name in ('color', 'depth', 'instance'):
        (folder / name).mkdir(parents=True)
    room, frames = Room(), []
    for index in range(num_frames):
        name, pose = f'{20 * index:06d}', room.camera(index)
        _, points, instance = room.image(COLOR_SIZE, COLOR_INTRINSICS, pose)
        depth = room.image(DEPTH_SIZE, DEPTH_INTRINSICS, pose)[0]
        color = np.rint(room.color_of(points)).astype(np.uint8)[..., ::-1]
        options = [cv2.IMWRITE_JPEG_QUALITY, 100]
        cv2.imwrite(str(folder / 'color' / f'{name}.jpg'), color, options)
        cv2.imwrite(str(folder / 'depth' / f'{name}.png'), np.rint(depth * 1000).astype(np.uint16))
        cv2.imwrite(str(folder / 'instance' / f'{name}.png'), instance.astype(np.uint16))
        frames.append(
            {
                'id': name,
                'color': f'color/{name}.jpg',
                'depth': f'depth/{name}.png',
                'instance': f'instance/{name}.png',
                'color_size': list(COLOR_SIZE),
                'depth_size': list(DEPTH_SIZE),
                'color_intrinsics': COLOR_INTRINSICS.tolist(),
                'depth_intrinsics': DEPTH_INTRINSICS.tolist(),
                'camera_to_world': pose.tolist(),
            }
        )
    record = {
        'format': 'pano3d-scene',
        'version': 1,
        'scene_id': scene_id,
        'source': 'scannet_v2',
        'depth_scale': 0.001,
        'axis_alignment': None,
        'frames': frames,
        'instances': INSTANCES,
        'mesh': 'mesh.npz',
        'report': {'frames_total': 20 * num_frames, 'warnings': []},
    }
    (folder / 'scene.json').write_text(json.dumps(record))


def write_dataset(root: Path, num_frames: dict[str, int], split: str = 'train') -> Path:
    """Scenes of so many frames each, and the split that lists them."""
    for scene_id, count in num_frames.items():
        write_scene(root, scene_id, count)
    record = {
        'metainfo': {'format': 'pano3d-scenes', 'version': 1, 'split': split},
        'data_list': [{'scene_id': s, 'num_frames': n} for s, n in num_frames.items()],
    }
    (root / f'{split}.json').write_text(json.dumps(record))
    return root


@pytest.fixture(scope='session')
def room() -> Room:
    return Room()


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[[dict[str, int]], Path]:
    """A function that writes scenes of given lengths and returns their root."""
    return lambda num_frames: write_dataset(tmp_path / 'converted', num_frames)


@pytest.fixture(scope='session')
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes of 6, 9 and 3 frames; do not change them."""
    return write_dataset(
        tmp_path_factory.mktemp('converted'), {'scene0000_00': 6, 'scene0001_00': 9, 'scene0002_00': 3}
    )
