"""Triangle meshes from PLY files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from plyfile import PlyData, PlyParseError

MAX_HEADER = 65536


@dataclass(frozen=True, eq=False)
class Mesh:
    """A coloured triangle mesh.

    Args:
        vertices: (N, 3) float32, metres.
        colors: (N, 3) uint8, RGB.
        faces: (F, 3) int32, vertex indices.
    """

    vertices: np.ndarray
    colors: np.ndarray
    faces: np.ndarray


def read_mesh(path: str | Path) -> Mesh:
    """Read vertices with colours and triangles; other properties are ignored.

    Raises:
        ValueError: if the file is cut or not a PLY file, lacks a property, has other faces than triangles, or holds
            vertices that are not finite or faces that point outside the vertices.
    """
    _check_counts(Path(path))
    try:
        ply = PlyData.read(str(path), known_list_len={'face': {'vertex_indices': 3}})
        vertex, face = ply['vertex'], ply['face']
        vertices = np.stack([vertex[axis] for axis in 'xyz'], axis=-1).astype(np.float32)
        colors = np.stack([vertex[channel] for channel in ('red', 'green', 'blue')], axis=-1).astype(np.uint8)
        faces = np.asarray(face['vertex_indices'], np.int32).reshape(-1, 3)
    except (PlyParseError, ValueError, KeyError, MemoryError) as error:
        raise ValueError(
            f'{path}: expected a PLY mesh with vertices (x, y, z, red, green, blue) and triangles '
            f'(vertex_indices); found {error!r}. Download it again'
        ) from error
    if not np.isfinite(vertices).all():
        raise ValueError(f'{path}: {int((~np.isfinite(vertices)).any(1).sum())} vertices are not finite')
    if faces.size and not 0 <= faces.min() <= faces.max() < len(vertices):
        raise ValueError(
            f'{path}: faces point to vertices {faces.min()} to {faces.max()}, but there are {len(vertices)} vertices'
        )
    return Mesh(vertices, colors, faces)


def _check_counts(path: Path) -> None:
    """Refuse a header that is endless or claims more elements than the file has bytes, before anything is allocated."""
    size = path.stat().st_size
    with open(path, 'rb') as file:
        header, end, _ = file.read(MAX_HEADER).partition(b'end_header')
    if not end:
        raise ValueError(f'{path}: expected a PLY header within {MAX_HEADER} bytes, found {header[:16]!r}')
    for name, digits in re.findall(rb'\belement\s+(\S+)\s+(\d+)', header):
        if len(digits) > 15 or int(digits) > size:
            raise ValueError(
                f'{path}: the header claims {digits[:20].decode()} elements {name.decode(errors="replace")!r}, but the '
                f'file has {size} bytes. Download it again'
            )
