"""Rays against a triangle mesh, by Embree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene


@dataclass(frozen=True, eq=False)
class Hits:
    """First hits of N rays.

    Args:
        depth: (N,) float32, distance in lengths of the given direction vector, 0 where nothing is hit.
        face: (N,) face number, -1 where nothing is hit.
        barycentric: (N, 2), weights of the second and third vertex of the face.
    """

    depth: np.ndarray
    face: np.ndarray
    barycentric: np.ndarray


class RayCaster:
    """Casts rays against one mesh.

    Args:
        vertices: (N, 3), metres.
        faces: (F, 3).
    """

    def __init__(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        self._scene = EmbreeScene(robust=True)
        TriangleMesh(self._scene, np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(faces, np.int32))

    def first_hits(self, origins: np.ndarray, directions: np.ndarray) -> Hits:
        """First hits of rays from origins (N, 3) along directions (N, 3) of any length."""
        found = self._scene.run(_float32(origins), _float32(directions), output=True)
        missed = found['geomID'] == -1
        return Hits(
            depth=np.where(missed, 0, found['tfar']),
            face=np.where(missed, -1, found['primID']),
            barycentric=np.stack([found['u'], found['v']], axis=1),
        )

    def occluded(self, origins: np.ndarray, directions: np.ndarray, distances: np.ndarray) -> np.ndarray:
        """Whether anything lies on each ray nearer than `distances` (N,) direction lengths, (N,) bool."""
        found = self._scene.run(_float32(origins), _float32(directions), _float32(distances), query='OCCLUDED')
        return np.asarray(found) != -1


def camera_rays(intrinsics: np.ndarray, size: tuple[int, int], camera_to_world: np.ndarray) -> np.ndarray:
    """World directions (H * W, 3) float32 through the pixel centres of an image of (width, height), row by row.

    Their camera z is 1, so that the distance to a hit in direction lengths is its depth. Pixel (0, 0) is the centre of
    the top-left pixel.
    """
    width, height = size
    x = (np.arange(width) - intrinsics[0, 2]) / intrinsics[0, 0]
    y = (np.arange(height) - intrinsics[1, 2]) / intrinsics[1, 1]
    right, down, forward = camera_to_world[:3, :3].T
    rows = y[:, None] * down + forward
    return (x[None, :, None] * right + rows[:, None]).reshape(-1, 3).astype(np.float32)


def _float32(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.float32)
