from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from pano3d.conversion import SensHeader, SensReader, SensWriter

HEADER = SensHeader(
    color_size=(4, 3),
    depth_size=(3, 2),
    color_intrinsics=np.arange(16, dtype=np.float32).reshape(4, 4),
    depth_intrinsics=np.arange(16, 32, dtype=np.float32).reshape(4, 4),
    depth_shift=2000.0,
    sensor_name='Sensor',
)


def by_hand(*, frames: list[bytes], num_frames: int | None = None, name_length: int = 6, codec: int = 2) -> bytes:
    """The layout as the public description of the format has it, without the code under test."""
    matrices = [range(16), np.eye(4).ravel(), range(16, 32), np.eye(4).ravel()]
    head = struct.pack('<IQ', 4, name_length) + b'Sensor'
    head += b''.join(struct.pack('<16f', *matrix) for matrix in matrices)
    head += struct.pack('<iiIIIIf', codec, 1, 4, 3, 3, 2, 2000.0)
    imu = struct.pack('<Q', 1) + bytes(128)
    return head + struct.pack('<Q', len(frames) if num_frames is None else num_frames) + b''.join(frames) + imu


def frame_by_hand(value: int, *, color: bytes = b'a JPEG', depth: bytes | None = None, color_bytes: int = -1) -> bytes:
    if depth is None:
        depth = zlib.compress(struct.pack('<6H', *range(value, value + 6)))
    color_bytes = len(color) if color_bytes < 0 else color_bytes
    return struct.pack('<16f4Q', *[value] * 16, value + 1, value + 2, color_bytes, len(depth)) + color + depth


def read(path: Path, data: bytes) -> list[tuple[int, bytes, list[list[int]]]]:
    path.write_bytes(data)
    with SensReader(path) as reader:
        return [(frame.index, frame.color, reader.decode_depth(frame).tolist()) for frame in reader.frames()]


def test_reads_the_documented_layout(tmp_path: Path) -> None:
    path = tmp_path / 'a.sens'
    path.write_bytes(by_hand(frames=[frame_by_hand(10), frame_by_hand(20, color=b'')]))
    with SensReader(path) as reader:
        assert (reader.num_frames, reader.header.sensor_name, reader.header.depth_shift) == (2, 'Sensor', 2000.0)
        assert (reader.header.color_size, reader.header.depth_size) == ((4, 3), (3, 2))
        np.testing.assert_array_equal(reader.header.color_intrinsics, HEADER.color_intrinsics)
        np.testing.assert_array_equal(reader.header.depth_intrinsics, HEADER.depth_intrinsics)
        first, second = reader.frames()
        assert (first.color_timestamp, first.depth_timestamp, first.color, second.color) == (11, 12, b'a JPEG', b'')
        np.testing.assert_array_equal(second.camera_to_world, np.full((4, 4), 20))
        assert reader.decode_depth(second).tolist() == [[20, 21, 22], [23, 24, 25]]


def test_writer_gives_what_it_was_given(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    depths = rng.integers(0, 65536, (3, 2, 3), np.uint16)
    poses = rng.normal(size=(3, 4, 4)).astype(np.float32)
    poses[1] = -np.inf
    with SensWriter(tmp_path / 'a.sens', HEADER) as writer:
        for index in range(3):
            writer.add_frame(
                color=bytes([index] * index), depth=depths[index], camera_to_world=poses[index], color_timestamp=index
            )
    with SensReader(tmp_path / 'a.sens') as reader:
        frames = list(reader.frames())
        np.testing.assert_array_equal([reader.decode_depth(frame) for frame in frames], depths)
        assert reader.header.depth_shift == HEADER.depth_shift
    np.testing.assert_array_equal([frame.camera_to_world for frame in frames], poses)
    assert [frame.has_pose for frame in frames] == [True, False, True]
    assert [(frame.color, frame.color_timestamp) for frame in frames] == [(b'', 0), (b'\1', 1), (b'\2\2', 2)]


def test_unwanted_frames_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / 'a.sens'
    path.write_bytes(by_hand(frames=[frame_by_hand(value) for value in range(7)]))
    with SensReader(path) as reader:
        assert [frame.index for frame in reader.frames(lambda index: index % 3 == 0)] == [0, 3, 6]
        assert [frame.index for frame in reader.frames(lambda index: index == 5)] == [5]


@pytest.mark.parametrize('step', [1, 2], ids=['all frames', 'every second frame'])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, step: int) -> None:
    data = by_hand(frames=[frame_by_hand(value) for value in range(4)])
    path = tmp_path / 'cut.sens'
    for length in range(len(data) - 136):  # up to the inertial records, which nobody reads
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r'cut\.sens') as caught, SensReader(path) as reader:
            list(reader.frames(lambda index: index % step == 0))
        assert ('empty' if length == 0 else 'trunc' if length < 310 else 'frame') in str(caught.value)


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (by_hand(frames=[], num_frames=2**60), f'claims {2**60} frames'),
        (by_hand(frames=[], name_length=2**62), rf'sensor name.*expected {2**62} bytes at offset 12'),
        (by_hand(frames=[frame_by_hand(1), frame_by_hand(1, color_bytes=2**60)]), 'frame 1'),
        (by_hand(frames=[], codec=3), 'color codec 2'),
        (b'\5' + by_hand(frames=[])[1:], 'expected .sens version 4, found version 5'),
        (by_hand(frames=[frame_by_hand(1, depth=b'no zlib')]), 'frame 0: the depth image is not a valid zlib'),
        (by_hand(frames=[frame_by_hand(1, depth=zlib.compress(b'1234'))]), 'expected|12 bytes, found 4 bytes'),
        (by_hand(frames=[frame_by_hand(1, depth=zlib.compress(bytes(10**7)))]), '12 bytes, found more'),
    ],
)
def test_false_claims_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=rf'liar\.sens.*{message}'):
        read(tmp_path / 'liar.sens', data)


@pytest.mark.parametrize('depth', [np.zeros((3, 2), np.uint16), np.zeros((2, 3), np.int32)])
def test_writer_refuses_other_depth(tmp_path: Path, depth: np.ndarray) -> None:
    with (
        SensWriter(tmp_path / 'a.sens', HEADER) as writer,
        pytest.raises(ValueError, match=r'uint16 of shape \(2, 3\)'),
    ):
        writer.add_frame(color=b'', depth=depth, camera_to_world=np.eye(4))
