from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pano3d.conversion.mesh import read_mesh


@pytest.fixture
def ply(release: Any) -> Path:
    release.add('scene0000_00')
    return release.file('scene0000_00', '_vh_clean_2.ply')


def test_reads_vertices_colors_and_triangles(ply: Path, release: Any) -> None:
    mesh = read_mesh(ply)
    assert (mesh.vertices.dtype, mesh.colors.dtype, mesh.faces.dtype) == (np.float32, np.uint8, np.int32)
    assert mesh.vertices.tolist() == release.vertices
    assert mesh.colors.tolist() == [[4 * i, 4 * i + 1, 4 * i + 2] for i in range(len(release.vertices))]
    assert mesh.faces.tolist() == release.faces


def change(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        (b'vertex 6', b'vertex 1152921504606846976', 'claims 1152921504606846976 elements .vertex.'),
        (b'face 3', b'face 1152921504606846976', 'claims 1152921504606846976 elements .face.'),
        (b'face 3', b'face 30', 'PLY mesh'),
        (b'face 3', b'face 3000', 'claims 3000 elements .face., but the file has'),
        (b'property float z\n', b'property float w\n', 'PLY mesh'),
        (b'uchar red', b'uchar rot', 'PLY mesh'),
        (b'ply\n', b'PLAY\n', 'PLY mesh'),
        (b'end_header', b'and_header', 'PLY header within 65536 bytes'),
        (b'binary_little_endian 1.0\nelement vertex 6', b'ascii 1.0\relement vertex 1073741824', 'elements .vertex.'),
        (b'\3\3\0\0\0\4\0\0\0\5', b'\4\3\0\0\0\4\0\0\0\5', 'PLY mesh'),
        (b'\3\3\0\0\0\4\0\0\0\5', b'\3\3\0\0\0\4\0\0\0\6', 'vertices 0 to 6, but there are 6 vertices'),
        (b'\0\0\x80\x3f', b'\0\0\xc0\x7f', '5 vertices are not finite'),
    ],
)
def test_unusable_meshes_are_refused(ply: Path, old: bytes, new: bytes, message: str) -> None:
    change(ply, old, new)
    with pytest.raises(ValueError, match=rf'scene0000_00_vh_clean_2\.ply: .*{message}'):
        read_mesh(ply)


def test_a_file_cut_anywhere_is_refused(ply: Path) -> None:
    data = ply.read_bytes()
    for length in range(len(data)):
        ply.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r'_vh_clean_2\.ply'):
            read_mesh(ply)
