"""COLMAP's text files: cameras and poses of images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .distorted_camera import MODELS, DistortedCamera

MAX_IMAGE_SIDE = 4096
MAX_METRES = 1e6


@dataclass(frozen=True, eq=False)
class PosedImage:
    """One registered image.

    Args:
        name: as in the file, perhaps with folders.
        camera_id: key of its camera.
        camera_to_world: (4, 4) float64, OpenCV axes, metres.
    """

    name: str
    camera_id: int
    camera_to_world: np.ndarray


def read_cameras(path: str | Path) -> dict[int, DistortedCamera]:
    """Cameras of `cameras.txt` by id.

    Raises:
        ValueError: if a line is damaged or a camera model unknown. The message names the file and the line.
    """
    cameras = {}
    for number, line in enumerate(_lines(path), 1):
        if line.strip() and not line.startswith('#'):
            camera_id, camera = _camera(line.split(), f'{path}: line {number}')
            cameras[camera_id] = camera
    return cameras


def read_posed_images(path: str | Path) -> list[PosedImage]:
    """Images of `images.txt`, in file order; their 2D points are not read.

    Raises:
        ValueError: if a line is damaged or a name occurs twice. The message names the file and the line.
    """
    images = {}
    lines = enumerate(_lines(path), 1)
    for number, line in lines:
        if not line.strip() or line.startswith('#'):
            continue
        image = _posed_image(line, f'{path}: line {number}')
        if image.name in images:
            raise ValueError(f'{path}: line {number}: the image {image.name!r} occurs twice')
        images[image.name] = image
        next(lines, None)  # the line of 2D points, which is empty if there are none
    return list(images.values())


def _lines(path: str | Path) -> list[str]:
    return Path(path).read_text(encoding='utf-8', errors='replace').split('\n')


def _camera(words: list[str], where: str) -> tuple[int, DistortedCamera]:
    model = words[1] if len(words) > 1 else 'nothing'
    if model not in MODELS:
        raise ValueError(f'{where}: camera model {model!r}: expected one of {sorted(MODELS)}')
    expected = 4 + MODELS[model]
    try:
        camera_id, width, height = int(words[0]), int(words[2]), int(words[3])
        parameters = np.array([float(word) for word in words[4:]])
    except (ValueError, IndexError) as error:
        raise ValueError(f'{where}: expected CAMERA_ID MODEL WIDTH HEIGHT PARAMS[], found {_short(words)}') from error
    if not (0 < width <= MAX_IMAGE_SIDE and 0 < height <= MAX_IMAGE_SIDE):
        raise ValueError(f'{where}: expected image sides of 1 to {MAX_IMAGE_SIDE} pixels, found {width}x{height}')
    if len(parameters) != expected or not np.isfinite(parameters).all() or not (parameters[:2] > 0).all():
        raise ValueError(
            f'{where}: {model}: expected {expected} finite numbers, the first two positive, found {_short(words[4:])}'
        )
    fx, fy, cx, cy = parameters[:4]
    matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    return camera_id, DistortedCamera(model, (width, height), matrix, parameters[4:])


def _posed_image(line: str, where: str) -> PosedImage:
    words = line.split(maxsplit=9)
    try:
        _, qw, qx, qy, qz, *translation = (float(word) for word in words[:8])
        camera_id, name = int(words[8]), words[9].strip()
    except (ValueError, IndexError) as error:
        raise ValueError(
            f'{where}: expected IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, found {_short(words)}'
        ) from error
    quaternion = np.array([qw, qx, qy, qz])
    length = np.linalg.norm(quaternion)
    if not (1e-6 < length < 1e6 and np.abs(translation).max() < MAX_METRES):  # false for NaN
        raise ValueError(
            f'{where}: {name!r}: expected a quaternion about 1 long and a translation below {MAX_METRES:g} m, '
            f'found {_short(words)}'
        )
    rotation = _rotation(quaternion / length)  # world to camera
    camera_to_world = np.eye(4)
    camera_to_world[:3, :3] = rotation.T
    camera_to_world[:3, 3] = -rotation.T @ np.array(translation)
    return PosedImage(name, camera_id, camera_to_world)


def _rotation(quaternion: np.ndarray) -> np.ndarray:
    """Rotation matrix of a unit quaternion (w, x, y, z)."""
    w, x, y, z = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _short(words: list[str]) -> str:
    text = ' '.join(words)
    return repr(text if len(text) <= 120 else text[:120] + '...')
