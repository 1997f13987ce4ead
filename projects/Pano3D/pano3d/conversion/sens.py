"""Reading and writing `.sens` streams, the RGB-D recordings of ScanNet.

Little endian, version 4: a header (sensor name, two cameras, image sizes, depth scale, number of frames), then per
frame a pose, two time stamps and two compressed images, then inertial records, which are not read. All lengths inside
a file are claims: they are compared with what is left of the file before anything of that size is allocated.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

VERSION = 4
COLOR_JPEG = 2
DEPTH_ZLIB_UINT16 = 1
MAX_IMAGE_SIDE = 8192

_FRAME_HEADER = struct.Struct('<16f4Q')


def _identity() -> np.ndarray:
    return np.eye(4, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class SensHeader:
    """What holds for all frames of a recording.

    Args:
        color_size, depth_size: (width, height) in pixels.
        color_intrinsics, depth_intrinsics: (4, 4) float32 pinhole matrices, pixels, integer pixel centres.
        color_extrinsics, depth_extrinsics: (4, 4) float32, the identity in ScanNet: both images share the frame's pose.
        depth_shift: depth units per metre.
        sensor_name: free text.
    """

    color_size: tuple[int, int]
    depth_size: tuple[int, int]
    color_intrinsics: np.ndarray
    depth_intrinsics: np.ndarray
    color_extrinsics: np.ndarray = field(default_factory=_identity)
    depth_extrinsics: np.ndarray = field(default_factory=_identity)
    depth_shift: float = 1000.0
    sensor_name: str = 'StructureSensor'


@dataclass(frozen=True, eq=False)
class SensFrame:
    """One frame as stored.

    Args:
        index: position in the file, from 0; this is the frame number of all other ScanNet files.
        camera_to_world: (4, 4) float32, metres, OpenCV axes; not finite where tracking failed.
        color_timestamp, depth_timestamp: microseconds.
        color: the bytes of a JPEG image.
        compressed_depth: zlib stream of uint16, row-major.
    """

    index: int
    camera_to_world: np.ndarray
    color_timestamp: int
    depth_timestamp: int
    color: bytes
    compressed_depth: bytes

    @property
    def has_pose(self) -> bool:
        return bool(np.isfinite(self.camera_to_world).all())


class SensReader:
    """A `.sens` file, read in one pass with the memory of one frame.

    Use as a context manager. `header` and `num_frames` are there at once; `frames` goes through the file.

    Args:
        path: file to read.

    Raises:
        ValueError: if the file ends early, has another version or codec, or claims more than it can hold. The message
            names the file, the offset, what was expected and what was found.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: BinaryIO = open(self.path, 'rb')  # noqa: SIM115 - closed by close()
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            if self._size == 0:
                raise ValueError(f'{self.path}: the file is empty; expected a .sens header. Download it again')
            self.header, self.num_frames = self._read_header()
            self._first_frame = self._file.tell()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> SensReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def frames(self, wanted: Callable[[int], bool] | None = None) -> Iterator[SensFrame]:
        """Frames in file order; the images of frames that are not `wanted` are skipped without being read.

        Goes to the end of the last frame in any case, so that a file that was cut is noticed.

        Raises:
            ValueError: if the file ends before its last frame.
        """
        self._file.seek(self._first_frame)
        for index in range(self.num_frames):
            what = f'frame {index}'
            values = _FRAME_HEADER.unpack(self._read(_FRAME_HEADER.size, f'{what} (pose, times and sizes)'))
            color_time, depth_time, color_bytes, depth_bytes = values[16:]
            if wanted is not None and not wanted(index):
                self._skip(color_bytes, f'{what} (color image)')
                self._skip(depth_bytes, f'{what} (depth image)')
                continue
            yield SensFrame(
                index=index,
                camera_to_world=np.array(values[:16], np.float32).reshape(4, 4),
                color_timestamp=color_time,
                depth_timestamp=depth_time,
                color=self._read(color_bytes, f'{what} (color image)'),
                compressed_depth=self._read(depth_bytes, f'{what} (depth image)'),
            )

    def decode_depth(self, frame: SensFrame) -> np.ndarray:
        """Depth of a frame (H, W) uint16, in units of 1 / `depth_shift` metres; 0 where there is no value.

        Raises:
            ValueError: if the bytes are no zlib stream of exactly one image.
        """
        width, height = self.header.depth_size
        expected = width * height * 2
        stream = zlib.decompressobj()
        try:
            data = stream.decompress(frame.compressed_depth, expected + 1)
        except zlib.error as error:
            raise ValueError(
                f'{self.path}: frame {frame.index}: the depth image is not a valid zlib stream ({error})'
            ) from error
        if len(data) != expected:
            found = f'{len(data)} bytes' if len(data) < expected else 'more'
            raise ValueError(
                f'{self.path}: frame {frame.index}: the depth image of size {width}x{height} should inflate to '
                f'{expected} bytes, found {found}'
            )
        return np.frombuffer(data, '<u2').reshape(height, width)

    def _read_header(self) -> tuple[SensHeader, int]:
        (version,) = struct.unpack('<I', self._read(4, 'header (version)'))
        if version != VERSION:
            raise ValueError(f'{self.path}: offset 0: expected .sens version {VERSION}, found version {version}')
        (name_length,) = struct.unpack('<Q', self._read(8, 'header (length of the sensor name)'))
        name = self._read(name_length, 'header (sensor name)').decode('utf-8', errors='replace')
        matrices = np.frombuffer(self._read(4 * 64, 'header (camera matrices)'), '<f4').reshape(4, 4, 4)
        offset = self._file.tell()
        color_codec, depth_codec = struct.unpack('<2i', self._read(8, 'header (codecs)'))
        if (color_codec, depth_codec) != (COLOR_JPEG, DEPTH_ZLIB_UINT16):
            raise ValueError(
                f'{self.path}: offset {offset}: expected color codec {COLOR_JPEG} (JPEG) and depth codec '
                f'{DEPTH_ZLIB_UINT16} (zlib of uint16), found {color_codec} and {depth_codec}'
            )
        offset = self._file.tell()
        *sizes, depth_shift, num_frames = struct.unpack('<4IfQ', self._read(28, 'header (image sizes)'))
        if not all(0 < side <= MAX_IMAGE_SIDE for side in sizes):
            raise ValueError(
                f'{self.path}: offset {offset}: expected image sides of 1 to {MAX_IMAGE_SIDE} pixels, found '
                f'color {sizes[0]}x{sizes[1]} and depth {sizes[2]}x{sizes[3]}'
            )
        if not (np.isfinite(depth_shift) and depth_shift > 0):
            raise ValueError(f'{self.path}: offset {offset + 16}: expected a positive depth shift, found {depth_shift}')
        possible = (self._size - self._file.tell()) // _FRAME_HEADER.size
        if num_frames > possible:
            raise ValueError(
                f'{self.path}: offset {offset + 20}: the header claims {num_frames} frames, but what is left of the '
                f'file holds {possible} at most. Download it again'
            )
        header = SensHeader(
            color_size=(sizes[0], sizes[1]),
            depth_size=(sizes[2], sizes[3]),
            color_intrinsics=matrices[0],
            color_extrinsics=matrices[1],
            depth_intrinsics=matrices[2],
            depth_extrinsics=matrices[3],
            depth_shift=depth_shift,
            sensor_name=name,
        )
        return header, num_frames

    def _claim(self, length: int, what: str) -> None:
        offset = self._file.tell()
        left = self._size - offset
        if length > left:
            raise ValueError(
                f'{self.path}: truncated at {what}: expected {length} bytes at offset {offset}, found {left} before '
                'the end of file. Download it again'
            )

    def _read(self, length: int, what: str) -> bytes:
        self._claim(length, what)
        return self._file.read(length)

    def _skip(self, length: int, what: str) -> None:
        self._claim(length, what)
        self._file.seek(length, os.SEEK_CUR)


class SensWriter:
    """Writes a `.sens` file without inertial records. Use as a context manager.

    Args:
        path: file to write; an existing one is replaced.
        header: what holds for all frames.
    """

    def __init__(self, path: str | Path, header: SensHeader) -> None:
        self.header = header
        self.num_frames = 0
        self._file: BinaryIO = open(path, 'wb')  # noqa: SIM115 - closed by close()
        name = header.sensor_name.encode()
        self._file.write(struct.pack('<IQ', VERSION, len(name)) + name)
        for matrix in (
            header.color_intrinsics,
            header.color_extrinsics,
            header.depth_intrinsics,
            header.depth_extrinsics,
        ):
            self._file.write(_matrix_bytes(matrix))
        self._file.write(struct.pack('<2i', COLOR_JPEG, DEPTH_ZLIB_UINT16))
        self._file.write(struct.pack('<4If', *header.color_size, *header.depth_size, header.depth_shift))
        self._count_offset = self._file.tell()
        self._file.write(struct.pack('<Q', 0))

    def add_frame(
        self,
        *,
        color: bytes,
        depth: np.ndarray,
        camera_to_world: np.ndarray,
        color_timestamp: int = 0,
        depth_timestamp: int = 0,
    ) -> None:
        """Append a frame.

        Args:
            color: the bytes of a JPEG image of the header's colour size.
            depth: (H, W) uint16 in units of 1 / `depth_shift` metres, 0 where there is no value.
            camera_to_world: (4, 4), metres, OpenCV axes; all -inf where there is no pose.
            color_timestamp, depth_timestamp: microseconds.

        Raises:
            ValueError: if the depth image has another type or size than the header says.
        """
        width, height = self.header.depth_size
        if depth.shape != (height, width) or depth.dtype != np.uint16:
            raise ValueError(f'`depth` must be uint16 of shape {(height, width)}, got {depth.dtype} of {depth.shape}')
        # The fastest level: a recording is written once, and its noise hardly compresses.
        compressed = zlib.compress(np.ascontiguousarray(depth, '<u2').tobytes(), 1)
        self._file.write(_matrix_bytes(camera_to_world))
        self._file.write(struct.pack('<4Q', color_timestamp, depth_timestamp, len(color), len(compressed)))
        self._file.write(color)
        self._file.write(compressed)
        self.num_frames += 1

    def close(self) -> None:
        """Write the number of frames and close the file."""
        if self._file.closed:
            return
        self._file.write(struct.pack('<Q', 0))
        self._file.seek(self._count_offset)
        self._file.write(struct.pack('<Q', self.num_frames))
        self._file.close()

    def __enter__(self) -> SensWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _matrix_bytes(matrix: np.ndarray) -> bytes:
    if matrix.shape != (4, 4):
        raise ValueError(f'camera matrices and poses must have shape (4, 4), got {matrix.shape}')
    return np.asarray(matrix, '<f4').tobytes()
