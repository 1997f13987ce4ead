"""The path of a hand-held camera through a room, and the lenses of its two images."""

from __future__ import annotations

import numpy as np

from .footprints import inside_boxes
from .room import Room

MARGIN = 0.3
NUM_BEARINGS = 72
RADII = np.arange(0.0, 5.0, 0.1)
SMOOTHING = 4
OUTWARD_SHARE = 0.25
OUTWARD_AREA = 15.0


def draw_lenses(
    color_size: tuple[int, int], depth_size: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Intrinsics (3, 3) of both images, about 60 degrees wide; the depth image sees a little more."""
    field_of_view = np.radians(rng.uniform(58, 63))
    return (
        _draw_intrinsics(field_of_view, color_size, rng),
        _draw_intrinsics(field_of_view + np.radians(2), depth_size, rng),
    )


def draw_walk(room: Room, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Poses (F, 4, 4) float32 of a smooth walk around a point of the room, raw frame.

    The camera looks across the room or, in some walks, outwards, and a little downwards. It is 1.2 to 1.8 m high, keeps
    away from walls and from everything about as high as itself, and turns by 11 to 19 degrees from frame to frame.
    """
    height = rng.uniform(1.35, 1.65)
    step = np.radians(rng.uniform(11, 19)) * rng.choice([-1, 1])
    bearing = rng.uniform(0, 2 * np.pi) + step * np.arange(num_frames)
    centre, reach = _free_reach(room, height, rng)
    outward = room.plan.area > OUTWARD_AREA and rng.uniform() < OUTWARD_SHARE
    share = rng.uniform(0.2, 0.4) if outward else rng.uniform(0.75, 0.95)
    known = np.linspace(0, 2 * np.pi, NUM_BEARINGS + 1)
    radius = share * np.interp(bearing % (2 * np.pi), known, np.append(reach, reach[0]))
    radius *= 0.95 + _wander(num_frames, 0.05, rng)
    around = np.stack([np.cos(bearing), np.sin(bearing)], axis=1)
    position = np.column_stack([centre + radius[:, None] * around, height + _wander(num_frames, 0.12, rng)])
    heading = bearing + (0 if outward else np.pi) + _wander(num_frames, np.radians(15), rng)
    pitch = np.radians(rng.uniform(16, 28)) + _wander(num_frames, np.radians(5), rng)
    roll = _wander(num_frames, np.radians(2), rng)
    poses = np.stack([_pose(*values) for values in zip(position, heading, pitch, roll, strict=True)])
    return (room.raw_from_aligned @ poses).astype(np.float32)


def _draw_intrinsics(field_of_view: float, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Square pixels; the principal point within one hundredth of the image of its middle."""
    width, height = size
    focal = width / (2 * np.tan(field_of_view / 2))
    middle = np.array([(width - 1) / 2, (height - 1) / 2]) + rng.uniform(-0.01, 0.01, 2) * size
    return np.array([[focal, 0, middle[0]], [0, focal, middle[1]], [0, 0, 1]], np.float32)


def _free_reach(room: Room, height: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A point (2,) of the room and how far (NUM_BEARINGS,) one can walk from it in each direction, smoothed."""
    boxes = np.stack([item.box for item in room.items])
    tall = boxes[(boxes[:, 6] > height - 0.3) & (boxes[:, 5] < height + 0.4)]
    x0, y0, x1, y1 = room.plan.rectangles[0]
    middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    spread = 0.12 * np.array([x1 - x0, y1 - y0])
    candidates = middle + rng.uniform(-1, 1, (12, 2)) * spread
    free = room.plan.contains(candidates, margin=MARGIN) & ~inside_boxes(candidates, tall, margin=MARGIN)
    centre = candidates[np.argmax(free)]
    angle = np.arange(NUM_BEARINGS) * (2 * np.pi / NUM_BEARINGS)
    points = centre + RADII[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)[:, None]
    blocked = ~room.plan.contains(points, margin=MARGIN) | inside_boxes(points, tall, margin=MARGIN)
    reach = RADII[np.maximum(np.argmax(blocked, axis=1) - 1, 0)]
    window = np.arange(-SMOOTHING, SMOOTHING + 1)
    neighbours = (np.arange(NUM_BEARINGS)[:, None] + window) % NUM_BEARINGS
    # The mean of window minima is smooth and, since every such window contains the bearing, never beyond its reach.
    return centre, reach[neighbours].min(axis=1)[neighbours].mean(axis=1)


def _wander(count: int, size: float, rng: np.random.Generator) -> np.ndarray:
    """A slow random function of the frame number within +-size, (count,)."""
    phase, period = rng.uniform(0, 2 * np.pi, 2), rng.uniform(9, 25, 2)
    frames = np.arange(count)
    return size * (
        0.6 * np.sin(frames * 2 * np.pi / period[0] + phase[0])
        + 0.4 * np.sin(frames * 2 * np.pi / period[1] + phase[1])
    )


def _pose(position: np.ndarray, heading: float, pitch: float, roll: float) -> np.ndarray:
    """Camera-to-world (4, 4), OpenCV axes, z up in the world; `heading` from x to y, positive `pitch` downwards."""
    forward = np.array([np.cos(heading) * np.cos(pitch), np.sin(heading) * np.cos(pitch), -np.sin(pitch)])
    right = np.array([np.sin(heading), -np.cos(heading), 0])
    down = np.cross(forward, right)
    pose = np.eye(4)
    pose[:3, 0] = np.cos(roll) * right + np.sin(roll) * down
    pose[:3, 1] = np.cos(roll) * down - np.sin(roll) * right
    pose[:3, 2] = forward
    pose[:3, 3] = position
    return pose
