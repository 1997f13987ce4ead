"""Planar quads: the one primitive of made-up rooms, the bodies made of them, and their division into small triangles.

A quad is four corners (4, 3) in metres, counter-clockwise seen from outside, beginning at the bottom left, so that
(c1 - c0) x (c3 - c0) points outwards. Local frames are right-handed with x along the wall behind, y to the front, z up.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

Interval = tuple[float, float]

_CORNERS = {
    'front': ((1, 1, 0), (0, 1, 0), (0, 1, 1), (1, 1, 1)),
    'back': ((0, 0, 0), (1, 0, 0), (1, 0, 1), (0, 0, 1)),
    'right': ((1, 0, 0), (1, 1, 0), (1, 1, 1), (1, 0, 1)),
    'left': ((0, 1, 0), (0, 0, 0), (0, 0, 1), (0, 1, 1)),
    'top': ((0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)),
    'bottom': ((0, 1, 0), (1, 1, 0), (1, 0, 0), (0, 0, 0)),
}
SIDES = tuple(_CORNERS)
_CORNER_INDEX = {side: np.array(corners) for side, corners in _CORNERS.items()}
_OCTAGON_AS_QUADS = np.array([[0, 1, 2, 3], [0, 3, 4, 7], [4, 5, 6, 7]])


def box(x: Interval, y: Interval, z: Interval, *, sides: Collection[str] = SIDES) -> np.ndarray:
    """The named sides of an axis-aligned box, (len(sides), 4, 3)."""
    bounds = np.array([x, y, z], float)
    index = np.stack([_CORNER_INDEX[side] for side in sides])
    return bounds[np.arange(3), index]


def inside_of_box(x: Interval, y: Interval, z: Interval, *, sides: Collection[str]) -> np.ndarray:
    """The named sides of a box, facing its inside: a basin, a niche."""
    return box(x, y, z, sides=sides)[:, [1, 0, 3, 2]]


def prism(centre: tuple[float, float], z: Interval, radius: tuple[float, float], *, taper: float = 1.0) -> np.ndarray:
    """An upright body with eight sides and a top, (11, 4, 3).

    Args:
        centre: x and y of its axis.
        z: its lower and upper end.
        radius: along x and along y, at the lower end.
        taper: upper over lower radius.
    """
    angle = np.arange(8) * (np.pi / 4) + np.pi / 8
    around = np.stack([radius[0] * np.cos(angle), radius[1] * np.sin(angle)], axis=1)
    # One factor for both radii: otherwise the sides would not be planar.
    low, high = (
        np.column_stack([np.array(centre) + scale * around, np.full(8, height)])
        for height, scale in zip(z, (1.0, taper), strict=True)
    )
    after = np.roll(np.arange(8), -1)
    sides = np.stack([low, low[after], high[after], high], axis=1)
    return np.concatenate([sides, high[_OCTAGON_AS_QUADS]])


def folded_sheet(x: Interval, y: Interval, z: Interval, *, folds: int) -> np.ndarray:
    """A hanging sheet whose `folds` zigzag between the two y, (2 * folds, 4, 3); it faces to the front."""
    across = np.linspace(x[1], x[0], 2 * folds + 1)
    depth = np.where(np.arange(2 * folds + 1) % 2 == 0, *y)
    low, high = (np.stack([across, depth, np.full_like(across, height)], axis=1) for height in z)
    return np.stack([low[:-1], low[1:], high[1:], high[:-1]], axis=1)


def lean_back(quads: np.ndarray, angle: float, *, y: float, z: float) -> np.ndarray:
    """Turn quads (..., 3) by `angle` radians about the axis along x through (y, z), their top towards the back."""
    cosine, sine = np.cos(angle), np.sin(angle)
    dy, dz = quads[..., 1] - y, quads[..., 2] - z
    return np.stack([quads[..., 0], y + cosine * dy - sine * dz, z + sine * dy + cosine * dz], axis=-1)


def place(quads: np.ndarray, *, position: np.ndarray, yaw: float) -> np.ndarray:
    """Turn quads (..., 3) about z by `yaw` radians, then move them to `position` (3,)."""
    cosine, sine = np.cos(yaw), np.sin(yaw)
    rotation = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    return np.einsum('...j,ij->...i', quads, rotation) + position


@dataclass(frozen=True, eq=False)
class Tessellation:
    """Quads divided into a grid of small triangles; neighbouring quads share no vertices.

    Args:
        vertices: (N, 3) float32.
        faces: (F, 3) int32.
        quad_of_vertex: (N,), quad_of_face: (F,), indices of the source quads.
        st: (N, 2) float32, position inside the quad, (0, 0) at its first corner and (1, 1) at its third.
        cell: (N, 2), grid column and row of each vertex.
    """

    vertices: np.ndarray
    faces: np.ndarray
    quad_of_vertex: np.ndarray
    quad_of_face: np.ndarray
    st: np.ndarray
    cell: np.ndarray


def tessellate(quads: np.ndarray, spacing: float) -> Tessellation:
    """Divide planar quads (Q, 4, 3) so that no grid edge is longer than `spacing` metres."""
    edges = np.linalg.norm(np.roll(quads, -1, axis=1) - quads, axis=2)
    columns, rows = (
        np.maximum(np.ceil(np.maximum(edges[:, k], edges[:, k + 2]) / spacing - 1e-9), 1).astype(int) for k in (0, 1)
    )
    quad, column, row = _ragged_grid(columns + 1, rows + 1)
    s, t = column / columns[quad], row / rows[quad]
    weights = np.stack([(1 - s) * (1 - t), s * (1 - t), s * t, (1 - s) * t], axis=1)
    vertices = np.einsum('nc,ncd->nd', weights, quads[quad])

    first_vertex = np.cumsum((columns + 1) * (rows + 1)) - (columns + 1) * (rows + 1)
    face_quad, face_column, face_row = _ragged_grid(columns, rows)
    stride = columns[face_quad] + 1
    corner = first_vertex[face_quad] + face_row * stride + face_column
    faces = np.stack(
        [corner, corner + 1, corner + stride + 1, corner, corner + stride + 1, corner + stride], axis=1
    ).reshape(-1, 3)
    return Tessellation(
        vertices=vertices.astype(np.float32),
        faces=faces.astype(np.int32),
        quad_of_vertex=quad,
        quad_of_face=np.repeat(face_quad, 2),
        st=np.stack([s, t], axis=1).astype(np.float32),
        cell=np.stack([column, row], axis=1),
    )


def _ragged_grid(columns: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Owner, column and row of every element of grids of different sizes, grid after grid, row by row."""
    counts = columns * rows
    owner = np.repeat(np.arange(len(counts)), counts)
    local = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return owner, local % columns[owner], local // columns[owner]
