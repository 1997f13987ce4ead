"""The views of a room as a sensor would record them: colour, depth, and which object each pixel shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..ray_casting import RayCaster, camera_rays
from .appearance import typical_colors
from .cameras import draw_lenses, draw_walk
from .categories import SHELL
from .lighting import bake_light
from .room import CAMERA_STREAM, SENSOR_STREAM, Room, stream
from .textures import NUM_LEVELS, SIDE, texture_bank

DEPTH_UNITS_PER_METRE = 1000
NUM_WALKS = 5
VISIBLE_PIXELS = 4
NEAR = 0.8
NEARNESS_PENALTY = 10.0


@dataclass(frozen=True)
class RecordingOptions:
    """How a room is recorded.

    Args:
        num_frames: views per room.
        color_size, depth_size: (width, height) of the two images.
        spacing: longest edge of the mesh's grid, metres.
        color_noise: standard deviation of the noise of colour images, grey levels.
        depth_noise: factor on the axial noise of a structured-light sensor; 0 for exact depth.
        depth_dropout: share of depth pixels without a value; the label images have none there either.
        unposed: share of frames whose tracking failed, i.e. without pose and labels.
        class_tint: how far the colour of each piece of furniture is drawn towards one that is typical of its class, 0
            to 1; at 0 classes share their materials and differ by shape and place only.
    """

    num_frames: int = 16
    color_size: tuple[int, int] = (160, 120)
    depth_size: tuple[int, int] = (128, 96)
    spacing: float = 0.14
    color_noise: float = 2.0
    depth_noise: float = 0.5
    depth_dropout: float = 0.0
    unposed: float = 0.0
    class_tint: float = 0.0

    def __post_init__(self) -> None:
        if self.num_frames < 1:
            raise ValueError(f'`num_frames` must be at least 1, got {self.num_frames}')
        for name in ('color_size', 'depth_size'):
            if min(getattr(self, name)) < 8:
                raise ValueError(f'`{name}` must be at least (8, 8) pixels, got {getattr(self, name)}')
        if self.spacing <= 0:
            raise ValueError(f'`spacing` must be positive, got {self.spacing}')
        for name in ('color_noise', 'depth_noise'):
            if getattr(self, name) < 0:
                raise ValueError(f'`{name}` must not be negative, got {getattr(self, name)}')
        for name in ('depth_dropout', 'unposed', 'class_tint'):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f'`{name}` must be between 0 and 1, got {getattr(self, name)}')


@dataclass(frozen=True, eq=False)
class View:
    """One frame.

    Args:
        color: (H, W, 3) uint8, RGB.
        depth: (h, w) uint16, millimetres, 0 where there is no value.
        objects: (H, W), objectId at colour resolution, -1 where there is none or no depth.
        camera_to_world: (4, 4) float32; all -inf where tracking failed.
    """

    color: np.ndarray
    depth: np.ndarray
    objects: np.ndarray
    camera_to_world: np.ndarray


class Recording:
    """A room with its light and a camera path, the richest of several drawn ones; `views` renders it.

    Args:
        room: what is recorded.
        seed, index: of the room.
        options: how it is recorded.

    Attributes:
        color_intrinsics, depth_intrinsics: (3, 3) float32, pixels, integer pixel centres.
        camera_to_world: (F, 4, 4) float32, raw frame, OpenCV axes, of all frames.
    """

    def __init__(self, room: Room, *, seed: int, index: int, options: RecordingOptions) -> None:
        self.room = room
        self.options = options
        rng = stream(seed, index, CAMERA_STREAM)
        self.color_intrinsics, self.depth_intrinsics = draw_lenses(options.color_size, options.depth_size, rng)
        self._caster = RayCaster(room.mesh.vertices, room.mesh.faces)
        walks = [draw_walk(room, options.num_frames, rng) for _ in range(NUM_WALKS)]
        self.camera_to_world = max(walks, key=self._richness)
        self._rng = stream(seed, index, SENSOR_STREAM)
        light = bake_light(room, self._caster, seed=seed, index=index)
        self._surface = _Surface(room, light, class_tint=options.class_tint)

    @property
    def vertex_colors(self) -> np.ndarray:
        """(N, 3) uint8, RGB."""
        return _display(self._surface.at_vertices())

    def views(self) -> Iterator[View]:
        """The frames in order; the sensor noise goes on from frame to frame."""
        options, rng = self.options, self._rng
        for pose in self.camera_to_world:
            tracked = rng.uniform() >= options.unposed
            depth = self._depth(pose)
            color, objects = self._color(pose)
            if options.depth_dropout > 0:
                lost = rng.uniform(size=depth.shape) < options.depth_dropout
                depth[lost] = 0
                objects[~self._sees_depth(depth > 0)] = -1
            if tracked:
                yield View(color, depth, objects, pose)
            else:
                yield View(color, depth, np.full_like(objects, -1), np.full_like(pose, -np.inf))

    def _richness(self, walk: np.ndarray) -> float:
        """Pieces of furniture per view of a walk, less what is so near that it hides the room; from coarse views."""
        intrinsics = self.color_intrinsics * np.array([[0.1], [0.1], [1]], np.float32)
        size = (self.options.color_size[0] // 10 + 1, self.options.color_size[1] // 10 + 1)
        directions = np.stack([camera_rays(intrinsics, size, pose) for pose in walk])
        origins = np.broadcast_to(walk[:, None, :3, 3], directions.shape)
        hits = self._caster.first_hits(origins.reshape(-1, 3), directions.reshape(-1, 3))
        categories = self.room.categories
        view = np.repeat(np.arange(len(walk)), directions.shape[1])
        key = view * len(categories) + self.room.mesh.object_of_face[hits.face]
        pixels = np.bincount(key, minlength=len(walk) * len(categories)).reshape(len(walk), -1)
        is_furniture = np.array([category not in SHELL for category in categories])
        visible = (pixels[:, is_furniture] >= VISIBLE_PIXELS).sum() / len(walk)
        return float(visible - NEARNESS_PENALTY * (hits.depth < NEAR).mean())

    def _depth(self, pose: np.ndarray) -> np.ndarray:
        width, height = self.options.depth_size
        directions = camera_rays(self.depth_intrinsics, self.options.depth_size, pose)
        depth = self._caster.first_hits(_origins(pose, len(directions)), directions).depth
        if self.options.depth_noise > 0:
            # Axial noise of the first Kinect after Nguyen, Izadi and Lovell (2012), metres.
            deviation = self.options.depth_noise * (0.0012 + 0.0019 * (depth - 0.4) ** 2)
            noise = deviation * self._rng.standard_normal(len(depth), np.float32)
            depth = np.where(depth > 0, depth + noise, 0)
        units = np.clip(np.rint(depth * DEPTH_UNITS_PER_METRE), 0, 65535)
        return units.astype(np.uint16).reshape(height, width)

    def _color(self, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        width, height = self.options.color_size
        intrinsics = self.color_intrinsics
        directions = camera_rays(intrinsics, self.options.color_size, pose)
        hits = self._caster.first_hits(_origins(pose, len(directions)), directions)
        light = self._surface.at_hits(hits.face, hits.barycentric, hits.depth / intrinsics[0, 0])
        drift = 1 + 0.03 * self._rng.standard_normal(3, np.float32)
        color = np.sqrt(np.maximum(light * drift, 0)) * 255
        if self.options.color_noise > 0:
            color += self.options.color_noise * self._rng.standard_normal(color.shape, np.float32)
        color = np.clip(color, 0, 255).astype(np.uint8)
        hit = hits.face >= 0
        color[~hit] = 0
        objects = np.where(hit, self.room.mesh.object_of_face[hits.face], -1)
        return color.reshape(height, width, 3), objects.reshape(height, width)

    def _sees_depth(self, valid: np.ndarray) -> np.ndarray:
        """Which colour pixels fall nearest to a depth pixel with a value; both cameras share their pose."""
        (width, height), (depth_width, depth_height) = self.options.color_size, self.options.depth_size
        color_k, depth_k = self.color_intrinsics, self.depth_intrinsics
        axes = []
        for axis, (count, depth_count) in enumerate(((width, depth_width), (height, depth_height))):
            ray = (np.arange(count) - color_k[axis, 2]) / color_k[axis, axis]
            nearest = np.rint(ray * depth_k[axis, axis] + depth_k[axis, 2]).astype(int)
            axes.append(np.clip(nearest, 0, depth_count - 1))
        return valid[axes[1][:, None], axes[0]]


class _Surface:
    """Reflected light at points of a lit room, linear, 1 is white."""

    def __init__(self, room: Room, light: np.ndarray, *, class_tint: float) -> None:
        self._mesh = room.mesh
        self._typical = typical_colors(room.categories)
        is_shell = np.array([category in SHELL for category in room.categories])
        self._class_tint = np.where(is_shell, 0, class_tint).astype(np.float32)[:, None]
        self._materials = room.materials
        self._bank = texture_bank()
        self._vertex_values = np.concatenate([room.mesh.uv, light], axis=1).astype(np.float32)

    def at_vertices(self) -> np.ndarray:
        """(N, 3)."""
        material = self._mesh.material_of_vertex
        level = np.ones(len(material), np.int32)
        return self._reflect(material, self._mesh.object_of_vertex, self._vertex_values, level)

    def at_hits(self, face: np.ndarray, barycentric: np.ndarray, pixel: np.ndarray) -> np.ndarray:
        """(N, 3) for face numbers (-1 gives any value), weights (N, 2), and the size of a pixel there (N,), metres."""
        second, third = barycentric[:, :1], barycentric[:, 1:]
        corner = self._mesh.faces[face]
        values = self._vertex_values[corner[:, 0]] * (1 - second - third)
        values += self._vertex_values[corner[:, 1]] * second
        values += self._vertex_values[corner[:, 2]] * third
        texels_per_pixel = pixel * (SIDE / self._mesh.tile_of_face[face])
        level = np.clip(np.rint(np.log2(np.maximum(texels_per_pixel, 1))), 0, NUM_LEVELS - 1).astype(np.int32)
        return self._reflect(self._mesh.material_of_face[face], self._mesh.object_of_face[face], values, level)

    def _reflect(self, material: np.ndarray, owner: np.ndarray, values: np.ndarray, level: np.ndarray) -> np.ndarray:
        texel = self._bank.sample(self._materials.texture[material], values[:, :2], level)
        tint = self._materials.tint[material]
        tint = tint + self._class_tint[owner] * (self._typical[owner] - tint)
        display = texel * tint
        return display * display * values[:, 2:]


def _display(light: np.ndarray) -> np.ndarray:
    """Display values (..., 3) uint8 of linear light, with a gamma of 2."""
    return (np.sqrt(np.clip(light, 0, 1)) * 255).astype(np.uint8)


def _origins(pose: np.ndarray, count: int) -> np.ndarray:
    return np.broadcast_to(pose[:3, 3], (count, 3))
