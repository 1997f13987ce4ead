"""Upright boxes and floor plans: what keeps furniture from standing in each other.

A footprint is a row of seven numbers, metres and radians: x, y, yaw, half extent along its own x, half extent along its
own y, lowest z, highest z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def footprint(
    x: float, y: float, yaw: float, size: tuple[float, float, float] | np.ndarray, *, low: float = 0.0
) -> np.ndarray:
    """The footprint (7,) of a box of full extents `size` centred at (x, y) that begins at height `low`."""
    return np.array([x, y, yaw, size[0] / 2, size[1] / 2, low, low + size[2]])


def overlap(first: np.ndarray, second: np.ndarray, *, gap: float = 0.0) -> np.ndarray:
    """Which boxes (N, 7) come closer than `gap` to which boxes (M, 7), (N, M) bool; touching is no overlap.

    Separating axes: two upright boxes are apart if they are apart along z or along one of their four side normals.
    With a gap the test is slightly strict at corners.
    """
    a, b = first[:, None], second[None]
    apart = (a[..., 5] >= b[..., 6] + gap) | (b[..., 5] >= a[..., 6] + gap)
    distance = b[..., :2] - a[..., :2]
    for yaw in (a[..., 2], b[..., 2]):
        for angle in (yaw, yaw + np.pi / 2):
            axis = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
            reach = _half_width(a, axis) + _half_width(b, axis) + gap
            apart = apart | (np.abs((distance * axis).sum(-1)) >= reach - 1e-9)
    return ~apart


def _half_width(boxes: np.ndarray, axis: np.ndarray) -> np.ndarray:
    cosine, sine = np.cos(boxes[..., 2]), np.sin(boxes[..., 2])
    along_x = np.abs(cosine * axis[..., 0] + sine * axis[..., 1])
    along_y = np.abs(cosine * axis[..., 1] - sine * axis[..., 0])
    return along_x * boxes[..., 3] + along_y * boxes[..., 4]


def inside_boxes(points: np.ndarray, boxes: np.ndarray, *, margin: float) -> np.ndarray:
    """Which points (..., 2) lie in the plan of any of the boxes (M, 7) grown by `margin`, (...) bool."""
    offset = points[..., None, :] - boxes[:, :2]
    cosine, sine = np.cos(boxes[:, 2]), np.sin(boxes[:, 2])
    x = np.abs(cosine * offset[..., 0] + sine * offset[..., 1])
    y = np.abs(cosine * offset[..., 1] - sine * offset[..., 0])
    return ((x < boxes[:, 3] + margin) & (y < boxes[:, 4] + margin)).any(-1)


def corners(boxes: np.ndarray) -> np.ndarray:
    """Corners (N, 4, 2) in the plan of boxes (N, 7)."""
    signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    local = signs * boxes[:, None, 3:5]
    cosine, sine = np.cos(boxes[:, 2, None]), np.sin(boxes[:, 2, None])
    turned = np.stack(
        [cosine * local[..., 0] - sine * local[..., 1], sine * local[..., 0] + cosine * local[..., 1]], -1
    )
    return turned + boxes[:, None, :2]


@dataclass(frozen=True)
class FloorPlan:
    """A rectangular or L-shaped room with its corner at the origin and its walls along x and y.

    Args:
        width, depth, height: outer extents, metres.
        notch: extents (x, y) of the rectangle missing at the far corner; (0, 0) for a rectangular room.
    """

    width: float
    depth: float
    height: float
    notch: tuple[float, float] = (0.0, 0.0)

    @property
    def outline(self) -> np.ndarray:
        """Corners (4, 2) or (6, 2), counter-clockwise."""
        w, d, (nx, ny) = self.width, self.depth, self.notch
        if nx == 0:
            return np.array([[0, 0], [w, 0], [w, d], [0, d]], float)
        return np.array([[0, 0], [w, 0], [w, d - ny], [w - nx, d - ny], [w - nx, d], [0, d]], float)

    @property
    def rectangles(self) -> np.ndarray:
        """The floor as one or two rectangles (x0, y0, x1, y1), the largest first."""
        w, d, (nx, ny) = self.width, self.depth, self.notch
        if nx == 0:
            return np.array([[0, 0, w, d]])
        parts = np.array([[0, 0, w, d - ny], [0, d - ny, w - nx, d]])
        area = (parts[:, 2] - parts[:, 0]) * (parts[:, 3] - parts[:, 1])
        return parts[np.argsort(-area)]

    @property
    def area(self) -> float:
        return self.width * self.depth - self.notch[0] * self.notch[1]

    @property
    def notch_box(self) -> np.ndarray:
        """The missing corner as boxes (0 or 1, 7)."""
        nx, ny = self.notch
        if nx == 0:
            return np.zeros((0, 7))
        return footprint(self.width - nx / 2, self.depth - ny / 2, 0.0, (nx, ny, self.height))[None]

    def contains(self, points: np.ndarray, *, margin: float = 0.0) -> np.ndarray:
        """Which points (..., 2) lie in the room, at least `margin` from its walls."""
        inside = ((points > margin) & (points < np.array([self.width, self.depth]) - margin)).all(-1)
        return inside & ~inside_boxes(points, self.notch_box, margin=margin)

    def holds(self, boxes: np.ndarray) -> np.ndarray:
        """Which boxes (N, 7) lie completely in the room, (N,) bool."""
        points = corners(boxes)
        inside = ((points > 0) & (points < np.array([self.width, self.depth]))).all((1, 2))
        return np.asarray(inside & ~overlap(boxes, self.notch_box).any(1))
