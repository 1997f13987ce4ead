"""Every parser of raw files against damaged ones: it works, or it says which file is wrong; nothing else happens.

Bytes of good files are cut, overwritten and repeated at random (the same ones in every run). No reader may allocate
much more than the file has.
"""

from __future__ import annotations

import io
import json
import pickle
import resource
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pano3d.conversion import SensHeader, SensReader, SensWriter
from pano3d.conversion.annotation import read_aggregation, read_label_table
from pano3d.conversion.annotation import read_segments as read_vertex_segments
from pano3d.conversion.colmap import read_cameras, read_posed_images
from pano3d.conversion.images import AnnotationArchive, read_color, read_grey
from pano3d.conversion.iphone_depth import IPhoneDepthReader
from pano3d.conversion.mesh import read_mesh
from pano3d.conversion.mmdet3d_scannet import read_infos
from pano3d.conversion.panst3r import read_categories, read_metadata, read_segments
from pano3d.conversion.posed_files import read_intrinsics, read_jpeg, read_png, read_pose
from pano3d.conversion.scannet_scan import read_axis_alignment
from pano3d.conversion.scannetpp_labels import read_bad_frames, read_excluded_vertices
from pano3d.conversion.scannetpp_scan import Video

SIZE = (16, 12)
ALLOWED = 8e6  # bytes, beside ten times the file


def encoded(kind: str, channels: int) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (SIZE[1], SIZE[0], channels), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(buffer, kind)
    return buffer.getvalue()


def sens() -> bytes:
    path = Path('recording.sens')
    matrix = np.array([[16, 0, 7.5, 0], [0, 16, 5.5, 0], [0, 0, 1, 0], [0, 0, 0, 1]], np.float32)
    header = SensHeader(color_size=SIZE, depth_size=SIZE, color_intrinsics=matrix, depth_intrinsics=matrix)
    with SensWriter(path, header) as writer:
        for index in range(3):
            depth = np.full((SIZE[1], SIZE[0]), index, np.uint16)
            writer.add_frame(color=encoded('JPEG', 3), depth=depth, camera_to_world=np.eye(4, dtype=np.float32))
    return path.read_bytes()


def read_sens(path: Path) -> None:
    with SensReader(path) as reader:
        for frame in reader.frames():
            reader.decode_depth(frame)


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as file:
        for index in range(3):
            file.writestr(f'instance-filt/{index}.png', encoded('PNG', 1))
    return buffer.getvalue()


def read_archive(path: Path) -> None:
    with AnnotationArchive(path, folder='instance-filt', size=SIZE) as maps:
        maps.unsafe_names()
        for index in range(3):
            if maps.has(index):
                maps.check_size(index)
                maps.read(index)


def ply() -> bytes:
    vertex = np.zeros(4, [('xyz', '<f4', 3), ('rgb', 'u1', 3)])
    face = np.zeros(2, [('count', 'u1'), ('indices', '<i4', 3)])
    face['count'], face['indices'] = 3, [[0, 1, 2], [1, 2, 3]]
    lines = [
        'ply',
        'format binary_little_endian 1.0',
        'element vertex 4',
        *(f'property float {axis}' for axis in 'xyz'),
    ]
    lines += [f'property uchar {color}' for color in ('red', 'green', 'blue')]
    lines += ['element face 2', 'property list uchar int vertex_indices', 'end_header\n']
    return '\n'.join(lines).encode() + vertex.tobytes() + face.tobytes()


def depth_frames() -> bytes:
    stream = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    deflated = stream.compress(bytes(4 * 192 * 256)) + stream.flush()
    copies = 2 * 192 * 256 - 1 - 4 - 15
    lz4 = b'\x1f\x07\x01\x00' + b'\xff' * (copies // 255) + bytes([copies % 255, 0])
    return b''.join(len(data).to_bytes(4, 'little') + data for data in (lz4, deflated, lz4))


def read_depth(path: Path) -> None:
    with IPhoneDepthReader(path) as reader:
        for index in range(3):
            reader.read(index)


def metadata() -> bytes:
    """With deflate, which the real file does not have: a short file may claim much."""
    buffer = io.BytesIO()
    arrays = {'intrinsics': np.stack([np.eye(3)] * 2), 'trajectories': np.stack([np.eye(4)] * 2)}
    np.savez_compressed(buffer, scenes=['a', 'b'], sceneids=[0, 1], images=['x', 'y'], cls_sep=256, **arrays)
    return buffer.getvalue()


def infos() -> bytes:
    entry = {'lidar_points': {'lidar_path': 'scene0000_00.bin'}, 'axis_align_matrix': np.eye(4)}
    return pickle.dumps({'metainfo': {}, 'data_list': [entry]})


def record(**content: Any) -> Callable[[], bytes]:
    return lambda: json.dumps(content).encode()


GROUPS = [{'objectId': 0, 'label': 'chair', 'segments': [1, 2]}, {'objectId': 1, 'label': 'wall', 'segments': []}]
FRAMES = [{'file_path': 'a.JPG', 'is_bad': True}, {'file_path': 'b.JPG', 'is_bad': False}]
READERS: dict[str, tuple[Callable[[], bytes], Callable[[Path], Any]]] = {
    'recording.sens': (sens, read_sens),
    'maps.zip': (archive, read_archive),
    'mesh.ply': (ply, read_mesh),
    'depth.bin': (depth_frames, read_depth),
    'aggregation.json': (record(segGroups=GROUPS), read_aggregation),
    'segs.json': (record(segIndices=[1, 2, 2, 7]), lambda path: read_vertex_segments(path, 4)),
    'transforms.json': (record(frames=FRAMES, test_frames=FRAMES), read_bad_frames),
    'labels.tsv': (lambda: b'id\traw_category\tnyu40id\n1\twall\t1\n2\tchair\t\n', read_label_table),
    'scan.txt': (lambda: b'axisAlignment = ' + b'1 0 0 2.5 ' * 4, read_axis_alignment),
    'mask.txt': (lambda: b'0\n3\n', lambda path: read_excluded_vertices(path, 4)),
    'cameras.txt': (lambda: b'# c\n1 OPENCV 4 3 5 5 2 1.5 0.1 0 0 0\n', read_cameras),
    'images.txt': (lambda: b'# c\n1 1 0 0 0 1 2 3 1 a.jpg\n\n2 1 0 0 0 1 2 3 1 b.jpg\n1 2 -1\n', read_posed_images),
    'color.jpg': (lambda: encoded('JPEG', 3), lambda path: read_color(path, SIZE)),
    'mask.png': (lambda: encoded('PNG', 1), lambda path: read_grey(path, SIZE)),
    'photo.jpg': (lambda: encoded('JPEG', 3), read_jpeg),
    'panoptic.png': (lambda: encoded('PNG', 3), lambda path: read_png(path, channels=3)),
    'pose.txt': (lambda: b'1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n', read_pose),
    'intrinsic.txt': (lambda: b'5 0 2\n0 5 1\n0 0 1\n', read_intrinsics),
    'all_metadata.npz': (metadata, read_metadata),
    'categories.json': (lambda: b'[{"id": 0, "name": "wall", "isthing": 0}]', read_categories),
    'segments.json': (lambda: b'[{"instance_id": 1, "orig_class_name": "a", "iscrowd": 0}]', read_segments),
    'scannet_infos_val.pkl': (infos, read_infos),
}
EDITS = st.lists(
    st.one_of(
        st.tuples(st.just('cut'), st.floats(0, 1), st.just(b'')),
        st.tuples(st.just('put'), st.floats(0, 1), st.binary(min_size=1, max_size=9)),
        st.tuples(
            st.just('put'),
            st.floats(0, 1),
            st.sampled_from([b'\xff' * 8, b'\0' * 8, b'9' * 20, b'-1', b'nan', b'\n', b'\xff\xfe']),
        ),
        st.tuples(st.just('repeat'), st.floats(0, 1), st.just(b'')),
    ),
    min_size=1,
    max_size=3,
)


def resident_bytes() -> int:
    """The most memory that this process has ever used."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def edited(data: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    for kind, where, new in edits:
        at = int(where * len(data))
        if kind == 'cut':
            data = data[:at]
        elif kind == 'put':
            data = data[:at] + new + data[at + len(new) :]
        else:
            data = data[:at] + data[at : at + 40] * 3 + data[at:]
    return data


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('hostile')


@pytest.fixture(scope='module')
def good_files(folder: Path) -> dict[str, bytes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return {name: make() for name, (make, _) in READERS.items()}


@pytest.mark.parametrize('name', READERS)
def test_good_files_are_read(folder: Path, good_files: dict[str, bytes], name: str) -> None:
    (folder / name).write_bytes(good_files[name])
    READERS[name][1](folder / name)


@pytest.mark.parametrize('name', READERS)
@settings(max_examples=80, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(edits=EDITS)
def test_damaged_files_are_named(
    folder: Path, good_files: dict[str, bytes], name: str, edits: list[tuple[str, float, bytes]]
) -> None:
    path = folder / name
    path.write_bytes(edited(good_files[name], edits))
    before = {item.name for item in folder.iterdir()}
    most = resident_bytes()
    tracemalloc.start()
    try:
        READERS[name][1](path)
    except ValueError as error:
        assert name in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < ALLOWED + 10 * path.stat().st_size
    assert resident_bytes() - most < 10 * ALLOWED  # what libraries allocate behind Python's back
    assert {item.name for item in folder.iterdir()} == before


@pytest.mark.parametrize('name', READERS)
@pytest.mark.parametrize('content', [b'', b'\0' * 1000, b'\xff' * 1000, b'[' * 100_000, b'{' * 100_000, b'"' * 300_000])
def test_files_of_no_kind_are_named(folder: Path, name: str, content: bytes) -> None:
    path = folder / name
    path.write_bytes(content)
    try:
        READERS[name][1](path)
    except ValueError as error:
        assert name in str(error)
    else:
        assert name.endswith('.txt'), 'only lists of lines may be empty or hold nothing of interest'


def test_damaged_members_of_any_compression_are_named(folder: Path) -> None:
    """Every byte of the compressed data, once wrong. A few bytes mean nothing; then the image is still right."""
    path, image = folder / 'members.zip', encoded('PNG', 1)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(path, 'w', method) as file:
            file.writestr('instance-filt/0.png', image)
        good, refused = path.read_bytes(), 0
        places = range(49, good.index(b'PK\x01\x02'))
        for at in places:
            path.write_bytes(good[:at] + bytes([good[at] ^ 0x55]) + good[at + 1 :])
            with AnnotationArchive(path, folder='instance-filt', size=SIZE) as maps:
                try:
                    assert maps.read(0)[0] == image
                except ValueError as error:
                    assert 'members.zip: instance-filt/0.png' in str(error)
                    refused += 1
        assert refused > 0.9 * len(places)


def test_a_zip_bomb_is_not_inflated(folder: Path) -> None:
    path = folder / 'bomb.zip'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        file.writestr('instance-filt/0.png', encoded('PNG', 1) + bytes(200_000_000))
    assert path.stat().st_size < 300_000
    tracemalloc.start()
    with (
        pytest.raises(ValueError, match=r'bomb.zip: instance-filt/0.png'),
        AnnotationArchive(path, folder='instance-filt', size=SIZE) as maps,
    ):
        maps.read(0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < ALLOWED


@pytest.mark.parametrize('kind', [b'IHDR', b'PLTE', b'tEXt', b'IDAT', b'acTL', b'fcTL', b'fdAT', b'none'])
@pytest.mark.parametrize('length', [2**32 - 1, 2**31 - 1, 2**30, 100])
def test_png_chunks_that_claim_more_than_there_is(folder: Path, kind: bytes, length: int) -> None:
    image = encoded('PNG', 1)
    at = image.index(b'IDAT') - 4
    path, most = folder / 'chunk.png', resident_bytes()
    path.write_bytes(image[:at] + length.to_bytes(4, 'big') + kind + bytes(80) + image[at:])
    with pytest.raises(ValueError, match=r'chunk\.png'):
        read_grey(path, SIZE)
    assert resident_bytes() - most < 10 * ALLOWED


def test_depth_that_inflates_without_end(folder: Path) -> None:
    path = folder / 'depth_bomb.bin'
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    data = stream.compress(bytes(200_000_000)) + stream.flush()
    path.write_bytes(len(data).to_bytes(4, 'little') + data)
    tracemalloc.start()
    with IPhoneDepthReader(path) as reader, pytest.raises(ValueError, match=r'depth_bomb\.bin: frame 0: .*found more'):
        reader.read(0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < ALLOWED


@pytest.mark.parametrize(
    'content', [b'', b'\x1aE\xdf\xa3' + b'\xff' * 500, bytes(5000), b'#EXTM3U\nhttp://localhost/x.ts\n']
)
def test_videos_that_are_none(folder: Path, content: bytes) -> None:
    path = folder / 'rgb.mkv'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r'rgb\.mkv'):
        Video(path).read(0, SIZE)
