from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pano3d.conversion.images import AnnotationArchive, check_jpeg, encode_png, to_millimetres

NOISE = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)


def encode(image: np.ndarray | Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind)
    return buffer.getvalue()


def archive_of(path: Path, **images: bytes) -> AnnotationArchive:
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, data in images.items():
            archive.writestr(f'maps/{name[1:]}.png', data)
    return AnnotationArchive(path, folder='maps', size=(64, 48))


def test_good_jpeg_passes() -> None:
    check_jpeg(encode(NOISE, 'JPEG'), (64, 48))
    check_jpeg(encode(NOISE[:5, :3], 'JPEG'), (3, 5))


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (encode(NOISE, 'JPEG')[:1500], 'cannot be decoded'),
        (encode(NOISE, 'PNG'), 'not a JPEG'),
        (b'', 'not a JPEG'),
        (encode(NOISE[:, :60], 'JPEG'), 'expected a JPEG image of size 64x48, found 60x48'),
    ],
    ids=['cut', 'other format', 'empty', 'other size'],
)
def test_damaged_jpeg_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_jpeg(data, (64, 48))


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_png_keeps_values(dtype: type) -> None:
    image = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, (5, 7), dtype, endpoint=True)
    decoded = np.array(Image.open(io.BytesIO(encode_png(image))))
    np.testing.assert_array_equal(decoded, image)


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_archive_gives_bytes_and_values(tmp_path: Path, dtype: type) -> None:
    image = NOISE[..., 0].astype(dtype) * (1 if dtype is np.uint8 else 250)
    data = encode(image, 'PNG')
    with archive_of(tmp_path / 'a.zip', _0=data) as archive:
        assert archive.has(0)
        assert not archive.has(1)
        found, values = archive.read(0)
        archive.check_size(0)
    assert found == data
    assert values.dtype == dtype
    np.testing.assert_array_equal(values, image)


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (encode(NOISE[:40, :, 0], 'PNG'), 'expected an image of size 64x48, found 64x40'),
        (encode(NOISE, 'PNG'), 'greyscale'),
        (encode(Image.fromarray(NOISE).quantize(16), 'PNG'), 'greyscale'),
        (encode(Image.fromarray(NOISE[..., 0] > 99), 'PNG'), 'greyscale'),
        (encode(NOISE[..., 0], 'PNG')[:200], 'cannot be decoded'),
        (encode(NOISE, 'JPEG'), 'expected a PNG'),
        (b'', 'expected a PNG'),
        (encode(NOISE[..., 0], 'PNG') + bytes(10**7), 'cannot be decoded'),
    ],
    ids=['size', 'colour', 'palette', 'one bit', 'cut', 'JPEG', 'empty', 'bomb'],
)
def test_damaged_maps_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with archive_of(tmp_path / 'a.zip', _3=data) as archive, pytest.raises(ValueError, match=rf'3\.png.*{message}'):
        archive.read(3)


def test_a_header_of_other_size_is_noticed_without_decoding(tmp_path: Path) -> None:
    data = b'\x89PNG\r\n\x1a\n' + struct.pack('>I4sIIBB', 13, b'IHDR', 2**30, 2**30, 8, 0)
    with archive_of(tmp_path / 'a.zip', _3=data) as archive, pytest.raises(ValueError, match='found 1073741824x'):
        archive.check_size(3)


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / 'a.zip'
    archive_of(path, _0=encode(NOISE[..., 0], 'PNG'))
    data = path.read_bytes()
    path.write_bytes(data[:-30])
    with pytest.raises(ValueError, match=r'a\.zip: not a zip file'):
        AnnotationArchive(path, folder='maps', size=(64, 48))
    path.write_bytes(data[:300] + b'\0\0\0\0' + data[304:])
    with (
        AnnotationArchive(path, folder='maps', size=(64, 48)) as archive,
        pytest.raises(ValueError, match=r'0\.png: cannot be read'),
    ):
        archive.read(0)


def test_members_outside_the_archive_are_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
        for name in ('maps/0.png', '../up.png', '/root.png', 'maps/../../up.png', 'maps/..png', 'c:\\up.png'):
            archive.writestr(name, b'')
    with AnnotationArchive(tmp_path / 'a.zip', folder='maps', size=(1, 1)) as archive:
        assert set(archive.unsafe_names()) == {'../up.png', '/root.png', 'maps/../../up.png', 'c:\\up.png'}


def test_millimetres() -> None:
    metres = np.array([1.004, 0.0004, 0.0006, 65.535, 65.536, -1, np.nan, np.inf, 1e300])
    assert to_millimetres(metres).tolist() == [1004, 0, 1, 65535, 0, 0, 0, 0, 0]
    assert to_millimetres(np.float32([1.004])).tolist() == [1004]
