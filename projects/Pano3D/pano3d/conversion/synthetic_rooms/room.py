"""A furnished room as one labelled triangle mesh.

Furniture is placed in the *aligned* frame (walls along x and y, floor at z = 0). Mesh and cameras are in the *raw*
frame of a recording, which is turned about z and moved, as ScanNet's are. `axis_alignment` leads from raw to aligned.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .appearance import Decorator, Materials
from .crowded_rooms import CROWDED_TYPES
from .footprints import FloorPlan
from .layout import PlacedItem
from .room_types import ROOM_TYPES, RoomType, draw_floor_plan, draw_room_type, furnish
from .shapes import place, tessellate

SEGMENT_CELLS = 6

GEOMETRY_STREAM, LIGHT_STREAM, CAMERA_STREAM, SENSOR_STREAM = range(4)


def stream(seed: int, index: int, purpose: int) -> np.random.Generator:
    """The random numbers of one purpose of one scene, independent of all other scenes and purposes."""
    return np.random.default_rng([seed, index, purpose])


@dataclass(frozen=True, eq=False)
class RoomMesh:
    """Triangles with labels and everything their colour depends on; objects share no vertices.

    Args:
        vertices: (N, 3) float32, metres, raw frame.
        faces: (F, 3) int32.
        object_of_vertex, object_of_face: (N,), (F,), objectId, from 0.
        segment_of_vertex: (N,), segment ids; a segment belongs to one object.
        normals: (N, 3) unit, outwards.
        uv: (N, 2) float32, texture coordinates in repeats.
        material_of_face: (F,), material_of_vertex: (N,), material numbers.
        tile_of_face: (F,) metres per texture repeat.
    """

    vertices: np.ndarray
    faces: np.ndarray
    object_of_vertex: np.ndarray
    object_of_face: np.ndarray
    segment_of_vertex: np.ndarray
    normals: np.ndarray
    uv: np.ndarray
    material_of_vertex: np.ndarray
    material_of_face: np.ndarray
    tile_of_face: np.ndarray


@dataclass(frozen=True, eq=False)
class Room:
    """A made-up room.

    Args:
        kind: what sort of room it is.
        plan: its floor plan, aligned frame.
        items: its furniture, aligned frame.
        categories: raw category of each object of the mesh.
        mesh: its surfaces, raw frame.
        materials: the materials that the mesh refers to.
        axis_alignment: (4, 4), aligned = axis_alignment @ raw.
    """

    kind: RoomType
    plan: FloorPlan
    items: tuple[PlacedItem, ...]
    categories: tuple[str, ...]
    mesh: RoomMesh
    materials: Materials
    axis_alignment: np.ndarray

    @property
    def raw_from_aligned(self) -> np.ndarray:
        """(4, 4), inverse of `axis_alignment`."""
        return np.linalg.inv(self.axis_alignment)


def build_room(seed: int, index: int, *, spacing: float = 0.12, crowded: bool = False) -> Room:
    """Room `index` of a seed.

    Args:
        spacing: longest edge of the mesh's grid, metres.
        crowded: with 20 to 60 objects, many of them equal and side by side.
    """
    rng = stream(seed, index, GEOMETRY_STREAM)
    kind = draw_room_type(rng, CROWDED_TYPES if crowded else ROOM_TYPES)
    plan = draw_floor_plan(kind, rng)
    decorator = Decorator(rng)
    quads, materials, categories, objects = _shell(kind, plan, decorator, rng)
    items = furnish(kind, plan, decorator, rng)
    for item in items:
        piece = item.furniture
        quads.append(place(piece.quads, position=item.position, yaw=item.box[2]))
        materials.append(piece.materials)
        objects.append(piece.object_of_quad + len(categories))
        categories += piece.categories
    axis_alignment = _draw_axis_alignment(plan, rng)
    to_raw = np.linalg.inv(axis_alignment)
    raw_quads = np.einsum('...j,ij->...i', np.concatenate(quads), to_raw[:3, :3]) + to_raw[:3, 3]
    all_materials = decorator.materials()
    mesh = _mesh(raw_quads, np.concatenate(materials), np.concatenate(objects), all_materials, spacing, rng)
    return Room(kind, plan, tuple(items), tuple(categories), mesh, all_materials, axis_alignment)


def _shell(
    kind: RoomType, plan: FloorPlan, decorator: Decorator, rng: np.random.Generator
) -> tuple[list[np.ndarray], list[np.ndarray], list[str], list[np.ndarray]]:
    """Quads, materials, categories and objects of walls (one object each), floor and ceiling."""
    tiled = rng.uniform() < kind.tiled_walls
    paint = decorator.draw('wall tiles' if tiled else 'wall paint')
    accent = decorator.draw('accent wall') if not tiled and rng.uniform() < 0.3 else paint
    floor, ceiling = decorator.one_of(*kind.floors), decorator.draw('white')
    start = plan.outline
    end = np.roll(start, -1, axis=0)
    low, high = np.zeros((len(start), 1)), np.full((len(start), 1), plan.height)
    # Anticlockwise outline, seen from inside: the wall's left end is the start of its edge reversed.
    walls = np.stack(
        [np.hstack([end, low]), np.hstack([start, low]), np.hstack([start, high]), np.hstack([end, high])], axis=1
    )
    wall_materials = np.full(len(walls), paint)
    wall_materials[rng.integers(len(walls))] = accent
    x0, y0, x1, y1 = plan.rectangles.T
    corners = np.stack([x0, y0, x1, y0, x1, y1, x0, y1], axis=1).reshape(-1, 4, 2)
    ground = np.concatenate([corners, np.zeros((len(corners), 4, 1))], axis=2)
    above = (ground + np.array([0, 0, plan.height]))[:, [1, 0, 3, 2]]
    count = len(ground)
    return (
        [walls, ground, above],
        [wall_materials, np.full(count, floor), np.full(count, ceiling)],
        ['wall'] * len(walls) + ['floor', 'ceiling'],
        [np.arange(len(walls)), np.full(count, len(walls)), np.full(count, len(walls) + 1)],
    )


def _draw_axis_alignment(plan: FloorPlan, rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(-np.pi, np.pi)
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    # As in ScanNet the aligned origin is near the middle of the room and the floor near, not at, raw z = 0.
    matrix[:3, 3] = [*rng.uniform(-1, 1, 2), rng.uniform(-0.1, 0.1)]
    shift = np.eye(4)
    shift[:2, 3] = [plan.width / 2, plan.depth / 2]
    return shift @ matrix


def _mesh(
    quads: np.ndarray,
    materials: np.ndarray,
    objects: np.ndarray,
    table: Materials,
    spacing: float,
    rng: np.random.Generator,
) -> RoomMesh:
    grid = tessellate(quads, spacing)
    right = quads[:, 1] - quads[:, 0]
    up = quads[:, 3] - quads[:, 0]
    width, height = np.linalg.norm(right, axis=1), np.linalg.norm(up, axis=1)
    normals = np.cross(right, up)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    right /= width[:, None]
    stretched = table.tile[materials] == 0
    tile = np.where(stretched, np.sqrt(width * height), table.tile[materials])
    quad = grid.quad_of_vertex
    offset = grid.vertices - quads[quad, 0]
    along = (
        np.stack([(offset * right[quad]).sum(1), (offset * np.cross(normals, right)[quad]).sum(1)], axis=1)
        / tile[quad, None]
    )
    shift = rng.uniform(0, 1, (len(quads), 2))[quad]
    uv = np.where(stretched[quad, None], np.clip(grid.st, 1e-3, 1 - 1e-3), along + shift)
    return RoomMesh(
        vertices=grid.vertices,
        faces=grid.faces,
        object_of_vertex=objects[quad],
        object_of_face=objects[grid.quad_of_face],
        segment_of_vertex=_segments(quad, grid.cell // SEGMENT_CELLS),
        normals=normals[quad].astype(np.float32),
        uv=uv.astype(np.float32),
        material_of_vertex=materials[quad],
        material_of_face=materials[grid.quad_of_face],
        tile_of_face=tile[grid.quad_of_face].astype(np.float32),
    )


def _segments(quad: np.ndarray, block: np.ndarray) -> np.ndarray:
    """A segment per block of each quad's grid, named after its first vertex."""
    key = (quad * 1024 + block[:, 0]) * 1024 + block[:, 1]
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    return first[inverse]
