"""Depth and instance maps of a mesh as a camera sees it, by ray casting (needs the extra `data`)."""

from __future__ import annotations

import numpy as np

from .ray_casting import RayCaster, camera_rays


class MeshRasteriser:
    """Sees one labelled mesh from many cameras.

    A pixel shows the face that the ray through its centre hits first; either side of a face counts. It takes the label
    of that face's **first vertex**, the rule of the official ScanNet++ tools. Any rule has to choose at the faces where
    two objects meet, and this one agrees with public ground truth. There is no near plane.

    Args:
        vertices: (N, 3), metres.
        faces: (F, 3), vertex indices.
        labels: (N,) whole numbers, e.g. instance ids with 0 = nothing.

    Raises:
        ValueError: if the shapes do not fit together.
    """

    def __init__(self, vertices: np.ndarray, faces: np.ndarray, labels: np.ndarray) -> None:
        for name, array, columns in (('vertices', vertices, 3), ('faces', faces, 3)):
            if array.ndim != 2 or array.shape[1] != columns:
                raise ValueError(f'`{name}` must have shape (n, {columns}), got {array.shape}')
        if labels.shape != (len(vertices),) or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(
                f'`labels` must be {len(vertices)} whole numbers, one per vertex, got {labels.dtype} of {labels.shape}'
            )
        self._caster = RayCaster(vertices, faces) if len(faces) else None
        self._face_labels = labels[faces[:, 0]]

    def view(self, directions: np.ndarray, camera_to_world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What a camera sees along given rays.

        Args:
            directions: (H, W, 3), one ray per pixel, OpenCV camera axes, z = 1; not finite where a pixel has no ray.
            camera_to_world: (4, 4), metres.

        Returns:
            Depth (H, W) float32, metres, z and not the length of the ray, 0 where nothing is hit; labels (H, W) of the
            type given, 0 where nothing is hit.
        """
        height, width = directions.shape[:2]
        rays = directions.reshape(-1, 3) @ camera_to_world[:3, :3].T
        return self._cast(rays, camera_to_world, (width, height))

    def pinhole_view(
        self, intrinsics: np.ndarray, size: tuple[int, int], camera_to_world: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """What a camera without distortion sees; as `view`.

        Args:
            intrinsics: (3, 3), pixels; pixel (0, 0) is the centre of the top-left pixel.
            size: (width, height).
            camera_to_world: (4, 4), metres.
        """
        return self._cast(camera_rays(intrinsics, size, camera_to_world), camera_to_world, size)

    def _cast(
        self, rays: np.ndarray, camera_to_world: np.ndarray, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        width, height = size
        depth = np.zeros(len(rays), np.float32)
        labels = np.zeros(len(rays), self._face_labels.dtype)
        usable = np.isfinite(rays).all(1)
        if self._caster is not None and usable.any():
            rays = rays[usable]
            hits = self._caster.first_hits(np.broadcast_to(camera_to_world[:3, 3], rays.shape), rays)
            depth[usable] = hits.depth
            labels[usable] = np.where(hits.face < 0, 0, self._face_labels[hits.face])
        return depth.reshape(height, width), labels.reshape(height, width)
