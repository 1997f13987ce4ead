"""Rooms with 20 to 60 objects, most of them copies of each other side by side: what a set of masks easily merges."""

from __future__ import annotations

import numpy as np

from . import fixtures, furniture
from .modelling import Furniture
from .room_types import DRY_FLOORS, Build, Furnisher, RoomType

MIN_OBJECTS, MAX_OBJECTS = 20, 60
WALKWAY = 0.75


class _Crowd:
    """The acts of furnishing with many equal things.

    Args:
        furnisher: of the room.
    """

    def __init__(self, furnisher: Furnisher) -> None:
        self.furnisher = furnisher
        self.rng = furnisher.rng
        self.arranger = furnisher.arranger

    @property
    def left(self) -> int:
        """How many more objects the room may have."""
        return MAX_OBJECTS - sum(len(item.furniture.categories) for item in self.arranger.items)

    def specimen(self, build: Build) -> Furniture:
        return build(self.rng, self.furnisher.decorator)

    def at_wall(self, build: Build, count: int, *, low: float = 0.0) -> None:
        """Up to `count` copies of one specimen in a row along a wall."""
        piece = self.specimen(build)
        first = self.arranger.against_wall(piece, low=low) if self.left > 0 else None
        if first is None:
            return
        placed, pitch = 1, piece.size[0] + self.rng.uniform(0.035, 0.1)
        for side in (-1, 1):
            step = 1
            while placed < count and self.left > 0:
                if self.arranger.beside(first, piece, offset=(side * step * pitch, 0.0), turn=0.0, low=low) is None:
                    break
                placed, step = placed + 1, step + 1

    def rows(self, places: tuple[float, float], count: int, build: Build, *, behind: Build | None = None) -> None:
        """Up to `count` copies of one specimen in rows across the room, all facing one way.

        Args:
            places: distance of the copies along a row and of the rows, metres between their sides.
            behind: what stands before each copy, a chair at a desk for instance, facing it.
        """
        piece = self.specimen(build)
        other = None if behind is None else self.specimen(behind)
        x0, y0, x1, y1 = self.furnisher.plan.rectangles[0]
        turned = bool(self.rng.integers(2))
        length, width = (y1 - y0, x1 - x0) if turned else (x1 - x0, y1 - y0)
        pitch = piece.size[0] + places[0], piece.size[1] + places[1] + (0.0 if other is None else other.size[1])
        columns = int((length - 2 * WALKWAY + places[0]) / pitch[0])
        lines = int((width - 2 * WALKWAY + places[1]) / pitch[1])
        facing = (np.pi / 2 if turned else 0.0) + np.pi * self.rng.integers(2)
        middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
        cells = [
            (column - (columns - 1) / 2, line - (lines - 1) / 2) for line in range(lines) for column in range(columns)
        ]
        for column, line in cells[:count]:
            if self.left < 2:
                return
            offset = np.array([column * pitch[0], line * pitch[1]])
            centre = middle + (offset[::-1] if turned else offset)
            item = self.arranger.at(piece, centre, facing + self.rng.uniform(-0.06, 0.06))
            if item is not None and other is not None:
                reach = item.box[4] + other.size[1] / 2 + self.rng.uniform(0.04, 0.12)
                self.arranger.beside(item, other, offset=(0.0, reach), turn=np.pi + self.rng.uniform(-0.3, 0.3))

    def tables(self, count: int, chairs: int) -> None:
        """Up to `count` tables, each with up to `chairs` equal chairs."""
        for _ in range(count):
            if self.left > chairs:
                self.furnisher.dining(chairs)

    def at_least(self, build: Build) -> None:
        """More of a kind, along walls or freely, until the room has enough objects."""
        for _ in range(20 * MIN_OBJECTS):
            if MAX_OBJECTS - self.left >= MIN_OBJECTS:
                return
            piece = self.specimen(build)
            if self.arranger.against_wall(piece) is None:
                self.arranger.freely(piece, wall_distance=0.05, turn=0.3)


def _classroom(f: Furnisher) -> None:
    crowd = _Crowd(f)
    f.windows(int(f.rng.integers(1, 3)), curtains=0.3)
    f.desks(1)
    gaps = (f.rng.uniform(0.06, 0.2), f.rng.uniform(0.35, 0.6))
    crowd.rows(gaps, int(f.rng.integers(18, 49)), furniture.chair)
    crowd.at_wall(furniture.bookshelf if f.chance(0.5) else furniture.low_cabinet, int(f.rng.integers(2, 5)))
    crowd.at_wall(fixtures.picture, int(f.rng.integers(2, 5)), low=f.rng.uniform(1.1, 1.4))
    crowd.at_least(furniture.chair)


def _open_office(f: Furnisher) -> None:
    crowd = _Crowd(f)
    f.windows(1, curtains=0.3)
    seat = furniture.office_chair if f.chance(0.7) else furniture.chair
    crowd.rows((0.06, f.rng.uniform(0.3, 0.5)), int(f.rng.integers(6, 13)), furniture.desk, behind=seat)
    crowd.at_wall(furniture.file_cabinet, int(f.rng.integers(3, 8)))
    crowd.at_wall(furniture.bookshelf if f.chance(0.5) else furniture.tall_cabinet, int(f.rng.integers(2, 5)))
    crowd.at_wall(furniture.trash_can, int(f.rng.integers(2, 4)))
    crowd.at_wall(fixtures.picture, int(f.rng.integers(2, 5)), low=f.rng.uniform(1.1, 1.4))
    crowd.at_least(furniture.office_chair)


def _canteen(f: Furnisher) -> None:
    crowd = _Crowd(f)
    f.windows(1, curtains=0.3)
    crowd.tables(int(f.rng.integers(3, 6)), int(f.rng.integers(4, 7)))
    crowd.at_wall(furniture.low_cabinet, int(f.rng.integers(2, 5)))
    crowd.at_wall(furniture.trash_can, int(f.rng.integers(2, 5)))
    crowd.at_wall(furniture.chair, int(f.rng.integers(3, 8)))
    crowd.at_wall(fixtures.picture, int(f.rng.integers(2, 5)), low=f.rng.uniform(1.1, 1.4))
    crowd.at_least(furniture.chair)


def _reading_room(f: Furnisher) -> None:
    crowd = _Crowd(f)
    for _ in range(3):
        crowd.at_wall(furniture.bookshelf, int(f.rng.integers(3, 6)))
    crowd.at_wall(furniture.armchair, int(f.rng.integers(2, 5)))
    build = (furniture.ottoman, furniture.bench, furniture.armchair)[int(f.rng.integers(3))]
    crowd.rows((f.rng.uniform(0.08, 0.25), f.rng.uniform(0.3, 0.5)), int(f.rng.integers(8, 19)), build)
    crowd.at_wall(fixtures.picture, int(f.rng.integers(2, 4)), low=f.rng.uniform(1.1, 1.4))
    crowd.at_least(furniture.chair)


CROWDED_TYPES = (
    RoomType('Classroom', 0.35, (4.8, 7.0), DRY_FLOORS, 0.0, _classroom),
    RoomType('Office', 0.25, (5.2, 7.0), DRY_FLOORS, 0.0, _open_office),
    RoomType('Dining Room', 0.2, (4.8, 6.6), DRY_FLOORS, 0.0, _canteen),
    RoomType('Bookstore / Library', 0.2, (4.4, 6.0), DRY_FLOORS, 0.0, _reading_room),
)
