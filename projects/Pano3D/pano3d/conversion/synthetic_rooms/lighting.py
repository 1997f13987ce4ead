"""Light at the vertices of a room: lamps, windows, and what reaches a place from all around.

Baked once per room and interpolated over faces, so that a view costs no further rays.
"""

from __future__ import annotations

import numpy as np

from ..ray_casting import RayCaster
from .room import LIGHT_STREAM, Room, stream

NUM_AMBIENT_RAYS = 8
AMBIENT_REACH = 0.9
TARGET_LIGHT = 0.55
SHOULDER = 0.8


def bake_light(room: Room, caster: RayCaster, *, seed: int, index: int) -> np.ndarray:
    """Light (N, 3) float32 at each vertex, 1 being white on a white surface in the final image."""
    rng = stream(seed, index, LIGHT_STREAM)
    mesh = room.mesh
    # Off the surface and away from its border, where a ray would graze the neighbouring face.
    middle = _face_middles(mesh.vertices, mesh.faces)
    origins = mesh.vertices + 0.01 * mesh.normals + 0.05 * (middle - mesh.vertices)
    light = _ambient(origins, mesh.normals, caster)[:, None] * rng.uniform(0.45, 0.65)
    for position, color in _lamps(room, rng):
        light = light + _from_lamp(origins, mesh.normals, position, caster)[:, None] * color
    exposure = TARGET_LIGHT * rng.uniform(0.85, 1.25) / light.mean()
    glow = room.materials.glow[mesh.material_of_vertex][:, None]
    exposed = light * exposure
    exposed *= (1 + SHOULDER) / (1 + SHOULDER * exposed)
    return ((1 - glow) * exposed + glow).astype(np.float32)


def _face_middles(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """For each vertex the middle of one of its faces."""
    face_of_vertex = np.zeros(len(vertices), np.int64)
    face_of_vertex[faces] = np.arange(len(faces))[:, None]
    return vertices[faces].mean(axis=1)[face_of_vertex]


def _lamps(room: Room, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Position in the raw frame and colour of each light."""
    lamps = []
    for x0, y0, x1, y1 in room.plan.rectangles:
        middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2]) + rng.uniform(-0.4, 0.4, 2)
        warm = np.array([1.0, rng.uniform(0.88, 1.0), rng.uniform(0.75, 1.0)])
        lamps.append((np.array([*middle, room.plan.height - 0.25]), rng.uniform(0.5, 1.0) * warm))
    for item in room.items:
        if item.furniture.categories == ('window',):
            x, y, yaw, _, half_depth, low, high = item.box
            reach = half_depth + 0.3
            position = np.array([x - np.sin(yaw) * reach, y + np.cos(yaw) * reach, (low + high) / 2])
            lamps.append((position, rng.uniform(0.1, 0.7) * np.array([0.88, 0.95, 1.0])))
    to_raw = room.raw_from_aligned
    return [(to_raw[:3, :3] @ position + to_raw[:3, 3], color) for position, color in lamps]


def _from_lamp(origins: np.ndarray, normals: np.ndarray, position: np.ndarray, caster: RayCaster) -> np.ndarray:
    toward = (position - origins).astype(np.float32)
    distance = np.linalg.norm(toward, axis=1)
    direction = toward / distance[:, None]
    facing = np.maximum((direction * normals).sum(1), 0)
    hidden = caster.occluded(origins, direction, distance)
    return np.where(hidden, 0, facing / (0.6 + 0.12 * distance**2))


def _ambient(origins: np.ndarray, normals: np.ndarray, caster: RayCaster) -> np.ndarray:
    """Share of a fixed set of cosine-distributed directions that nothing near blocks, (N,)."""
    k = np.arange(NUM_AMBIENT_RAYS)
    radius = np.sqrt((k + 0.5) / NUM_AMBIENT_RAYS)
    angle = k * np.pi * (3 - np.sqrt(5))
    helper = np.where(np.abs(normals[:, 2:]) < 0.9, [0, 0, 1], [1, 0, 0])
    across = np.cross(helper, normals)
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    along = np.cross(normals, across)
    directions = (
        (radius * np.cos(angle))[None, :, None] * across[:, None]
        + (radius * np.sin(angle))[None, :, None] * along[:, None]
        + np.sqrt(1 - radius**2)[None, :, None] * normals[:, None]
    ).reshape(-1, 3)
    starts = np.repeat(origins, NUM_AMBIENT_RAYS, axis=0)
    hidden = caster.occluded(starts, directions, np.full(len(starts), AMBIENT_REACH))
    return 1 - 0.75 * hidden.reshape(-1, NUM_AMBIENT_RAYS).mean(axis=1)
