from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

from pano3d.conversion.iphone_depth import IPhoneDepthReader, lz4_block

SHAPE = (192, 256)


def literal_block(data: bytes) -> bytes:
    """An LZ4 block that is one run of literals."""
    extra = len(data) - 15
    return bytes([0xF0]) + bytes([255]) * (extra // 255) + bytes([extra % 255]) + data


def deflated(data: bytes) -> bytes:
    stream = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


def framed(*payloads: bytes) -> bytes:
    return b''.join(len(payload).to_bytes(4, 'little') + payload for payload in payloads)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / 'depth.bin'


@pytest.fixture
def millimetres() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 5000, (3, *SHAPE), np.uint16)


@pytest.fixture
def metres() -> np.ndarray:
    return np.random.default_rng(1).random((3, *SHAPE), np.float32)


def test_lz4_frames(path: Path, millimetres: np.ndarray) -> None:
    path.write_bytes(framed(*(literal_block(frame.tobytes()) for frame in millimetres)))
    with IPhoneDepthReader(path) as reader:
        for index in (2, 0, 1):
            assert reader.read(index).dtype == np.uint16
            np.testing.assert_array_equal(reader.read(index), millimetres[index])


def test_deflated_frames(path: Path, metres: np.ndarray) -> None:
    path.write_bytes(framed(*(deflated(frame.tobytes()) for frame in metres)))
    with IPhoneDepthReader(path) as reader:
        for index in (2, 0, 1):
            assert reader.read(index).dtype == np.float32
            np.testing.assert_array_equal(reader.read(index), metres[index])


def test_one_deflated_stream(path: Path, metres: np.ndarray) -> None:
    data = deflated(metres.tobytes())
    path.write_bytes(data)
    with IPhoneDepthReader(path) as reader:
        for index in (1, 2, 0, 0, 2):
            np.testing.assert_array_equal(reader.read(index), metres[index])
        with pytest.raises(ValueError, match=r'depth.bin: frame 3: depth image: truncated'):
            reader.read(3)
    path.write_bytes(data[: len(data) // 2])
    with IPhoneDepthReader(path) as reader:
        np.testing.assert_array_equal(reader.read(0), metres[0])
        with pytest.raises(ValueError, match=r'depth.bin: frame 2: depth image: truncated'):
            reader.read(2)


@pytest.mark.parametrize(
    ('block', 'expected'),
    [
        (b'\x30abc', b'abc'),
        (b'\x32abc\x03\x00\x00', b'abcabcabc'),  # 6 bytes from 3 before, then an empty end
        (b'\x10a\x01\x00\x10b', b'aaaaab'),  # a copy that reads what it writes
        (b'\x1fa\x01\x00\xff\x02\x00', b'a' * (1 + 4 + 15 + 255 + 2)),
        (b'\xf0\xff\x00' + b'x' * 270, b'x' * 270),
    ],
)
def test_lz4_blocks_by_hand(block: bytes, expected: bytes) -> None:
    assert lz4_block(block, len(expected)) == expected
    for size in (len(expected) - 1, len(expected) + 1):
        with pytest.raises(ValueError, match=r'.'):
            lz4_block(block, size)
    for cut in range(len(block)):
        with pytest.raises(ValueError, match=r'.'):
            lz4_block(block[:cut], len(expected))


@pytest.mark.parametrize('block', [b'\x10a\x00\x00\x00', b'\x10a\x02\x00\x00', b'\xf0' + b'\xff' * 100, b''])
def test_damaged_lz4_blocks(block: bytes) -> None:
    with pytest.raises(ValueError, match=r'.'):
        lz4_block(block, 5)


def test_one_damaged_frame_leaves_the_others(path: Path, millimetres: np.ndarray) -> None:
    good = literal_block(millimetres[0].tobytes())
    path.write_bytes(framed(good, good[:-2], b'', deflated(bytes(100)), deflated(bytes(10**6)), b'\xff' * 50, good))
    with IPhoneDepthReader(path) as reader:
        for index in (0, 6):
            np.testing.assert_array_equal(reader.read(index), millimetres[0])
        for index in range(1, 6):
            with pytest.raises(ValueError, match=rf'depth\.bin: frame {index}: depth image: at offset \d+'):
                reader.read(index)
        with pytest.raises(ValueError, match=r'frame 7: .*the file has 7 frames'):
            reader.read(7)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda data: data[:-1], r'truncated at frame 1: expected \d+ bytes at offset \d+, found \d+ before'),
        (lambda data: data + b'\1\2', r'truncated at frame 2: expected a size at offset'),
        (lambda data: b'\xff\xff\xff\xff' + data[4:], r'truncated at frame 0: expected 4294967295 bytes at offset 4'),
        (lambda data: b'', 'the file is empty'),
    ],
)
def test_files_that_are_cut_are_refused(path: Path, millimetres: np.ndarray, change: object, message: str) -> None:
    data = framed(*(literal_block(frame.tobytes()) for frame in millimetres[:2]))
    path.write_bytes(change(data))  # type: ignore[operator]
    with pytest.raises(ValueError, match=rf'depth\.bin: {message}'):
        IPhoneDepthReader(path)
