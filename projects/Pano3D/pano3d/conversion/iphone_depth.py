"""Reading `depth.bin`, the LiDAR depth of ScanNet++'s iPhone recordings.

One 256x192 image per video frame, in one of three encodings: per frame a u32 size and an LZ4 block of uint16
millimetres, or per frame a u32 size and a raw deflate stream of float32 metres, or (older recordings) one raw deflate
stream of float32 metres for all frames. All sizes inside the file are claims: they are compared with what is left.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

SIZE = (256, 192)  # (width, height)
_NUM_PIXELS = SIZE[0] * SIZE[1]
_CHUNK = 65536


class IPhoneDepthReader:
    """Depth images of a `depth.bin`. Use as a context manager.

    Args:
        path: file to read.

    Raises:
        ValueError: if the file is empty, ends inside a frame or has none of the encodings. The message names the file,
            the frame, the offset, what was expected and what was found.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: BinaryIO = open(self.path, 'rb')  # noqa: SIM115 - closed by close()
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            if self._size == 0:
                raise ValueError(f'{self.path}: the file is empty; expected depth images. Download it again')
            self._offsets, cut = self._walk()
            self._stream = _DeflatedFloats(self._file) if cut else None
            if self._stream is not None and not self._stream.starts_well():
                raise ValueError(f'{self.path}: {cut}. Download it again')
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> IPhoneDepthReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, frame: int) -> np.ndarray:
        """Depth of a frame (192, 256) as stored: uint16 millimetres or float32 metres; 0 where there is no value.

        Raises:
            ValueError: if there is no such frame or it cannot be decoded; the message names the file and the frame.
        """
        try:
            return self._decode(frame).reshape(SIZE[1], SIZE[0])
        except (ValueError, zlib.error) as error:
            raise ValueError(f'{self.path}: frame {frame}: depth image: {error}') from error

    def _decode(self, frame: int) -> np.ndarray:
        if self._stream is not None:
            return self._stream.read(frame)
        if frame >= len(self._offsets):
            raise ValueError(f'the file has {len(self._offsets)} frames')
        offset, size = self._offsets[frame]
        self._file.seek(offset)
        data = self._file.read(size)
        try:
            return np.frombuffer(lz4_block(data, 2 * _NUM_PIXELS), '<u2')
        except ValueError as of_lz4:
            stream = zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                floats = stream.decompress(data, 4 * _NUM_PIXELS + 1)
            except zlib.error as error:
                raise ValueError(
                    f'at offset {offset}: neither an LZ4 block ({of_lz4}) nor a deflate stream ({error})'
                ) from error
            if len(floats) != 4 * _NUM_PIXELS:
                found = f'{len(floats)} bytes' if len(floats) < 4 * _NUM_PIXELS else 'more'
                raise ValueError(
                    f'at offset {offset}: no LZ4 block ({of_lz4}), and as a deflate stream it should inflate to '
                    f'{4 * _NUM_PIXELS} bytes, found {found}'
                ) from None
            return np.frombuffer(floats, '<f4')

    def _walk(self) -> tuple[list[tuple[int, int]], str]:
        """(offset, size) of every frame, and what is wrong if the sizes do not lead to the end of the file."""
        offsets: list[tuple[int, int]] = []
        position = 0
        while position < self._size:
            self._file.seek(position)
            header = self._file.read(4)
            size = int.from_bytes(header, 'little')
            position += 4
            left = max(self._size - position, 0)
            if len(header) < 4 or size > left:
                what = f'{size} bytes at offset {position}' if len(header) == 4 else f'a size at offset {position - 4}'
                return (
                    offsets,
                    f'truncated at frame {len(offsets)}: expected {what}, found {left} before the end of file',
                )
            offsets.append((position, size))
            position += size
        return offsets, ''


class _DeflatedFloats:
    """Frames inside one raw deflate stream of float32, in the memory of one frame."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._next = -1

    def starts_well(self) -> bool:
        """Whether the first frame can be read."""
        try:
            self.read(0)
        except (ValueError, zlib.error):
            return False
        return True

    def read(self, frame: int) -> np.ndarray:
        if self._next < 0 or frame < self._next:
            self._file.seek(0)
            self._inflater, self._next = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while True:
            data = self._one_frame()
            self._next += 1
            if self._next > frame:
                return np.frombuffer(data, '<f4')

    def _one_frame(self) -> bytes:
        parts, missing = [], 4 * _NUM_PIXELS
        while missing:
            source = self._inflater.unconsumed_tail or self._file.read(_CHUNK)
            part = self._inflater.decompress(source, missing)
            if not part and not source:
                raise ValueError(f'truncated: the stream ends before frame {self._next} is complete')
            parts.append(part)
            missing -= len(part)
        return b''.join(parts)


def lz4_block(data: bytes, size: int) -> bytes:
    """Decompress an LZ4 block to exactly `size` bytes, never more.

    Raises:
        ValueError: if it is no such block.
    """
    out = bytearray()
    position = 0
    try:
        while True:
            token = data[position]
            literals, position = _length(data, position + 1, token >> 4)
            if literals > len(data) - position or literals > size - len(out):
                raise ValueError(f'{literals} literals at byte {position} exceed the block or the image')
            out += data[position : position + literals]
            position += literals
            if position == len(data):
                break
            (distance,) = struct.unpack_from('<H', data, position)
            length, position = _length(data, position + 2, token & 15)
            length += 4
            if not 0 < distance <= len(out) or length > size - len(out):
                raise ValueError(f'a copy of {length} bytes from {distance} bytes before at byte {position}')
            pattern = bytes(out[len(out) - distance :][:length])
            out += (pattern * (length // len(pattern) + 1))[:length]
    except (IndexError, struct.error) as error:
        raise ValueError(f'it ends after {len(data)} bytes inside a sequence') from error
    if len(out) != size:
        raise ValueError(f'expected {size} bytes, found {len(out)}')
    return bytes(out)


def _length(data: bytes, position: int, length: int) -> tuple[int, int]:
    """A length whose first four bits are all set goes on in the bytes that follow."""
    if length == 15:
        while True:
            byte = data[position]
            position += 1
            length += byte
            if byte != 255:
                break
    return length, position
