"""Reading the small files of processed data: images, matrices in text files, and folders of numbered files."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from .images import ZIP_ERRORS, check_jpeg
from .poses import is_rigid

MAX_PIXELS = 50_000_000
MAX_RATIO = 1100  # bytes that deflate makes of one are fewer


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
    data = path.read_bytes()
    modes = {1: ('L', 'I;16', 'I;16B', 'I'), 3: ('RGB',)}[channels]
    try:
        with Image.open(io.BytesIO(data), formats=['PNG']) as image:
            most = min(MAX_PIXELS, MAX_RATIO * len(data))
            if image.mode not in modes or image.width * image.height > most:
                raise ValueError(
                    f'expected {channels} channels and at most {most} pixels, found mode {image.mode} of '
                    f'{image.width}x{image.height}'
                )
            pixels = np.asarray(image)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f'{path}: not a PNG image of the kind that belongs here ({error})') from error
    return pixels if channels == 3 else pixels.astype(np.uint16)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz file, numbers and text only.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, claims more than it holds, or has objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                _check_array(archive, member)
        with np.load(path, allow_pickle=False) as data:
            return dict(data)
    except FileNotFoundError:
        raise
    except (*ZIP_ERRORS, KeyError, MemoryError, TypeError, OSError, EOFError, SyntaxError) as error:
        raise ValueError(f'{path}: not a file of arrays ({error!r})') from error


def _check_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Compare the sizes that the directory and the array's header claim with what is there."""
    if member.file_size > MAX_RATIO * (member.compress_size + 1):
        raise ValueError(f'{member.filename}: claims {member.file_size} bytes made of {member.compress_size}')
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
    if math.prod(shape) * dtype.itemsize > member.file_size:
        raise ValueError(f'{member.filename}: claims {shape} of {dtype} in {member.file_size} bytes')


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
        ValueError: if it is not a 4x4 matrix of a rotation and a translation with the last row 0 0 0 1.
    """
    pose = read_matrix(path)
    if not np.isfinite(pose).all():
        return None
    if pose.shape != (4, 4) or not np.allclose(pose[3], (0, 0, 0, 1)):
        raise ValueError(f'{path}: expected a 4x4 matrix with the last row 0 0 0 1, found {pose.tolist()}')
    return checked_pose(pose, str(path))


def checked_pose(pose: np.ndarray, where: str) -> np.ndarray:
    """A finite pose (4, 4), its last row exactly 0 0 0 1.

    Raises:
        ValueError: if it is no rotation and translation.
    """
    if not is_rigid(pose):
        raise ValueError(f'{where}: expected a rotation and a translation, found {pose.tolist()}')
    return np.vstack([pose[:3], [[0, 0, 0, 1]]])


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
