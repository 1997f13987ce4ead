"""Placing furniture in a room without collisions: against walls, freely, or beside something."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .footprints import FloorPlan, footprint, overlap
from .modelling import Furniture

WALL_GAP = 0.015
CANDIDATES = 40
GAP = 0.03


@dataclass(frozen=True, eq=False)
class PlacedItem:
    """Furniture at its place.

    Args:
        furniture: the piece in its local frame.
        box: its bounding box as a footprint (7,) in the room.
        wall: number of the wall behind it, None for free-standing pieces.
    """

    furniture: Furniture
    box: np.ndarray
    wall: int | None = None

    @property
    def position(self) -> np.ndarray:
        """Where the local origin goes, (3,)."""
        return np.array([self.box[0], self.box[1], self.box[5]])


class Arranger:
    """Puts furniture into a room, one piece after another; what does not fit is left out.

    Args:
        plan: the room.
        rng: source of all choices.
    """

    def __init__(self, plan: FloorPlan, rng: np.random.Generator) -> None:
        self.plan = plan
        self.rng = rng
        self.items: list[PlacedItem] = []
        self._taken = np.zeros((0, 7))

    def against_wall(
        self, furniture: Furniture, *, low: float = 0.0, wall: int | None = None, clear: float = 0.0
    ) -> PlacedItem | None:
        """Somewhere along the walls, its back to the wall, its lowest point at height `low`.

        Args:
            wall: only along this wall.
            clear: metres in front of it to keep free of anything placed later.
        """
        start, direction, length, yaw = self._walls()
        width, depth, _ = furniture.size
        rooms = np.maximum(length - width - 2 * WALL_GAP, 0) * (length > width + 2 * WALL_GAP)
        if wall is not None:
            rooms = rooms * (np.arange(len(rooms)) == wall)
        if rooms.sum() == 0:
            return None
        walls = self.rng.choice(len(rooms), CANDIDATES, p=rooms / rooms.sum())
        along = self.rng.uniform(0, 1, CANDIDATES)
        along = np.where(self.rng.uniform(0, 1, CANDIDATES) < 0.3, np.round(along), along)
        along = WALL_GAP + width / 2 + along * rooms[walls]
        normal = np.stack([-direction[walls, 1], direction[walls, 0]], axis=1)
        centres = start[walls] + direction[walls] * along[:, None] + normal * (depth / 2 + WALL_GAP)
        boxes = _candidate_boxes(furniture, centres, yaw[walls], low)
        chosen = self._first_free(boxes, clear)
        return None if chosen is None else self._put(furniture, boxes[chosen], clear, int(walls[chosen]))

    def freely(self, furniture: Furniture, *, wall_distance: float, turn: float) -> PlacedItem | None:
        """Somewhere in the room, along its walls up to `turn` radians, `wall_distance` metres from walls and things."""
        x0, y0, x1, y1 = self.plan.rectangles[0] if self.rng.uniform() < 0.7 else self.plan.rectangles[-1]
        reach = min(furniture.size[:2]) / 2 + wall_distance
        if x1 - x0 <= 2 * reach or y1 - y0 <= 2 * reach:
            return None
        centres = self.rng.uniform((x0 + reach, y0 + reach), (x1 - reach, y1 - reach), (CANDIDATES, 2))
        quarter = self.rng.integers(0, 4, CANDIDATES) * (np.pi / 2)
        boxes = _candidate_boxes(furniture, centres, quarter + self.rng.uniform(-turn, turn, CANDIDATES), 0.0)
        grown = boxes + np.array([0, 0, 0, wall_distance, wall_distance, 0, 0])
        free = self.plan.holds(grown) & ~overlap(grown, self._taken).any(1)
        return self._put(furniture, boxes[np.argmax(free)], 0.0, None) if free.any() else None

    def at(self, furniture: Furniture, centre: np.ndarray, yaw: float) -> PlacedItem | None:
        """On the floor at `centre` (2,), turned by `yaw`."""
        box = footprint(centre[0], centre[1], yaw, furniture.size)
        return None if self._first_free(box[None], 0.0) is None else self._put(furniture, box, 0.0, None)

    def beside(
        self, anchor: PlacedItem, furniture: Furniture, *, offset: tuple[float, float], turn: float, low: float = 0.0
    ) -> PlacedItem | None:
        """At `offset` (x, y) from the anchor's centre, in the anchor's frame, turned by `turn` radians against it."""
        x, y, yaw = anchor.box[:3]
        cosine, sine = np.cos(yaw), np.sin(yaw)
        centre = (x + cosine * offset[0] - sine * offset[1], y + sine * offset[0] + cosine * offset[1])
        box = footprint(*centre, yaw + turn, furniture.size, low=low)
        return None if self._first_free(box[None], 0.0) is None else self._put(furniture, box, 0.0, anchor.wall)

    def _walls(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        start = self.plan.outline
        edge = np.roll(start, -1, axis=0) - start
        length = np.linalg.norm(edge, axis=1)
        direction = edge / length[:, None]
        return start, direction, length, np.arctan2(direction[:, 1], direction[:, 0])

    def _first_free(self, boxes: np.ndarray, clear: float) -> int | None:
        zones = boxes if clear == 0 else _with_clearance(boxes, clear)
        free = self.plan.holds(boxes) & (boxes[:, 6] < self.plan.height)
        free &= ~overlap(zones, self._taken, gap=GAP).any(1)
        return int(np.argmax(free)) if free.any() else None

    def _put(self, furniture: Furniture, box: np.ndarray, clear: float, wall: int | None) -> PlacedItem:
        item = PlacedItem(furniture, box, wall)
        self.items.append(item)
        zone = box[None] if clear == 0 else _with_clearance(box[None], clear)
        self._taken = np.concatenate([self._taken, zone])
        return item


def _candidate_boxes(furniture: Furniture, centres: np.ndarray, yaw: np.ndarray, low: float) -> np.ndarray:
    size = np.array(furniture.size)
    constant = np.array([*size[:2] / 2, low, low + size[2]])
    return np.column_stack([centres, yaw, np.broadcast_to(constant, (len(centres), 4))])


def _with_clearance(boxes: np.ndarray, clear: float) -> np.ndarray:
    """The boxes grown to their front, their local +y, by `clear` metres."""
    grown = boxes.copy()
    grown[:, 0] -= np.sin(boxes[:, 2]) * clear / 2
    grown[:, 1] += np.cos(boxes[:, 2]) * clear / 2
    grown[:, 4] += clear / 2
    return grown
