"""Checks of encoded images, and the images of ScanNet's 2D annotation inside their zip files."""

from __future__ import annotations

import io
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

# What a damaged archive makes of zipfile and its decompressors; NotImplementedError is a RuntimeError
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, RuntimeError, ValueError)
_PNG_HEADER = struct.Struct('>8sI4sIIBB')
# One filter for all rows: choosing one per row takes as long as the compression and saves nothing. Older versions of
# OpenCV choose.
_PNG_FILTER = [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP] if hasattr(cv2, 'IMWRITE_PNG_FILTER') else []
_PNG_OPTIONS = [cv2.IMWRITE_PNG_COMPRESSION, 1, *_PNG_FILTER]
_PNG_CHUNK = struct.Struct('>I4s')  # before the data and a checksum of 4 bytes
_ANIMATION = {b'acTL', b'fcTL', b'fdAT'}
_PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'


def check_jpeg(data: bytes, size: tuple[int, int]) -> None:
    """Make sure that a JPEG image can be decoded to its end and has the size (width, height).

    Raises:
        ValueError: if not.
    """
    try:
        with Image.open(io.BytesIO(data), formats=['JPEG']) as image:
            found = image.size
            if found == size:
                image.draft('L', (max(1, size[0] // 8), max(1, size[1] // 8)))  # all data, little arithmetic
                image.load()
    except UnidentifiedImageError as error:
        raise ValueError(f'not a JPEG image, its first bytes are {data[:8]!r}') from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f'the JPEG image cannot be decoded ({error})') from error
    if found != size:
        raise ValueError(f'expected a JPEG image of size {_text(size)}, found {_text(found)}')


def read_color(path: Path, size: tuple[int, int]) -> np.ndarray:
    """A JPEG file of (width, height) as (H, W, 3) uint8, BGR, whatever an EXIF tag says of its orientation.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no JPEG image of this size or damaged.
    """
    data = path.read_bytes()
    try:
        check_jpeg(data, size)
    except ValueError as error:
        raise ValueError(f'{path}: color image: {error}') from error
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise ValueError(f'{path}: color image: cannot be decoded. Download it again')
    return image


def read_grey(path: Path, size: tuple[int, int]) -> np.ndarray:
    """An 8-bit greyscale PNG file of (width, height) as (H, W) uint8.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is of another kind or size or damaged.
    """
    data = path.read_bytes()
    bits, color_type = _png_header(data, size, str(path))
    if (bits, color_type) != (8, 0):
        raise ValueError(f'{path}: expected greyscale of 8 bits (color type 0), found {bits} bits, type {color_type}')
    image = _decoded_png(data)
    if image is None or image.shape != (size[1], size[0]):
        raise ValueError(f'{path}: the PNG image cannot be decoded. Download it again')
    return image


def encode_jpeg(image: np.ndarray) -> bytes:
    """A (H, W, 3) uint8 BGR image as JPEG of quality 95."""
    done, data = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 95])
    if not done:
        raise ValueError(f'cannot encode an image of {image.dtype} and shape {image.shape} as JPEG')
    return data.tobytes()


def encode_png(image: np.ndarray, *, noisy: bool = False) -> bytes:
    """A (H, W) uint8 or uint16 image as PNG; little compression, which is several times faster than the default.

    Args:
        image: to encode.
        noisy: whether it is measured, so that looking for repetitions takes time and finds none.
    """
    strategy = [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE] if noisy else []
    done, data = cv2.imencode('.png', image, _PNG_OPTIONS + strategy)
    if not done:
        raise ValueError(f'cannot encode an image of {image.dtype} and shape {image.shape} as PNG')
    return data.tobytes()


def to_millimetres(depth: np.ndarray) -> np.ndarray:
    """Depth in metres as uint16 millimetres, rounded; 0 where it is not finite, not positive or above 65.535 m."""
    with np.errstate(invalid='ignore', over='ignore'):
        rounded = np.rint(np.asarray(depth, np.float64) * 1000)
    known = (rounded > 0) & (rounded <= 65535)  # false for NaN
    return np.where(known, rounded, 0).astype(np.uint16)


class AnnotationArchive:
    """A zip file with one PNG per frame, `<folder>/<frame>.png`, read by name: nothing is extracted to disk.

    Use as a context manager.

    Args:
        path: the zip file.
        folder: folder of the images inside it.
        size: (width, height) that every image must have.

    Raises:
        ValueError: if the file is not a zip file.
    """

    def __init__(self, path: str | Path, *, folder: str, size: tuple[int, int]) -> None:
        self.path = Path(path)
        self._folder = folder
        self._size = size
        try:
            self._zip = zipfile.ZipFile(self.path)
        except ZIP_ERRORS as error:
            raise ValueError(f'{self.path}: not a zip file ({error}). Download it again') from error
        self._names = self._zip.namelist()
        self._members = {str(PurePosixPath(name)): name for name in self._names}  # without a leading `./`

    def __enter__(self) -> AnnotationArchive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    def unsafe_names(self) -> Sequence[str]:
        """Members that would leave the folder they are extracted to."""
        return sorted(
            name
            for name in set(self._names)
            if '\\' in name or PurePosixPath(name).is_absolute() or '..' in PurePosixPath(name).parts
        )

    def is_of_other_layout(self) -> bool:
        """Whether there are files but none is where the images belong."""
        files = [name for name in self._members if not self._members[name].endswith('/')]
        return bool(files) and not any(re.fullmatch(rf'{self._folder}/\d+\.png', name) for name in files)

    def has(self, frame: int) -> bool:
        return self._name(frame) in self._members

    def check_size(self, frame: int) -> None:
        """Make sure that the image of a frame is a PNG of the right size; reads its first bytes only.

        Raises:
            ValueError: if not; the message names the file and the member.
        """
        self._check_header(frame, self._read(frame, _PNG_HEADER.size))

    def read(self, frame: int) -> tuple[bytes, np.ndarray]:
        """The image of a frame: its bytes in the archive and its values (H, W) uint8 or uint16.

        Raises:
            ValueError: if it is not a greyscale PNG of 8 or 16 bits and of the right size; the message names the file
                and the member.
        """
        width, height = self._size
        limit = 2 * width * height + 65536  # more than any sensible encoding needs
        data = self._read(frame, limit + 1)
        bits, color_type = self._check_header(frame, data)
        if color_type != 0 or bits not in (8, 16):
            raise ValueError(
                f'{self._where(frame)}: expected greyscale of 8 or 16 bits (color type 0), '
                f'found {bits} bits and color type {color_type}'
            )
        image = _decoded_png(data) if len(data) <= limit else None
        if image is None or image.shape != (height, width):
            raise ValueError(f'{self._where(frame)}: the PNG image cannot be decoded. Download the archive again')
        return data, image

    def _name(self, frame: int) -> str:
        return f'{self._folder}/{frame}.png'

    def _where(self, frame: int) -> str:
        return f'{self.path}: {self._name(frame)}'

    def _read(self, frame: int, length: int) -> bytes:
        try:
            with self._zip.open(self._members[self._name(frame)]) as member:
                return member.read(length)
        except (*ZIP_ERRORS, OSError, EOFError) as error:
            raise ValueError(f'{self._where(frame)}: cannot be read ({error}). Download the archive again') from error

    def _check_header(self, frame: int, data: bytes) -> tuple[int, int]:
        return _png_header(data, self._size, self._where(frame))


def _png_header(data: bytes, size: tuple[int, int], where: str) -> tuple[int, int]:
    """Bits and color type of a PNG image that must have the size (width, height)."""
    if len(data) < _PNG_HEADER.size or not data.startswith(_PNG_SIGNATURE):
        raise ValueError(f'{where}: expected a PNG image, found {data[:8]!r}')
    _, _, _, width, height, bits, color_type = _PNG_HEADER.unpack_from(data)
    if (width, height) != size:
        raise ValueError(f'{where}: expected an image of size {_text(size)}, found {width}x{height}')
    return bits, color_type


def _decoded_png(data: bytes) -> np.ndarray | None:
    """The image of a PNG file whose header has been checked; None if it is damaged.

    Chunks are looked through first: OpenCV allocates what the length of one claims, without looking how much is left,
    and takes sizes from chunks of animations.
    """
    position, kinds = len(_PNG_SIGNATURE), []
    while position < len(data):
        length, kind = _PNG_CHUNK.unpack_from(data, position) if position + 8 <= len(data) else (len(data), b'')
        position += _PNG_CHUNK.size + length + 4
        kinds.append(kind)
        if position > len(data) or kind == b'IEND':
            break
    if position > len(data) or kinds[-1] != b'IEND' or kinds.count(b'IHDR') != 1 or {*kinds} & _ANIMATION:
        return None
    return cv2.imdecode(np.frombuffer(data[:position], np.uint8), cv2.IMREAD_UNCHANGED)


def _text(size: tuple[int, int]) -> str:
    return f'{size[0]}x{size[1]}'
