"""What stands in a living room, a bedroom, a kitchen, an office, a bathroom, and in a room that is all in one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from . import fixtures, furniture
from .appearance import Decorator
from .footprints import FloorPlan
from .layout import Arranger, PlacedItem
from .modelling import Furniture

Build = Callable[[np.random.Generator, Decorator], Furniture]


class Furnisher:
    """The acts of furnishing that several room types share.

    Args:
        plan: the room.
        decorator: where materials come from.
        rng: source of all choices.
    """

    def __init__(self, plan: FloorPlan, decorator: Decorator, rng: np.random.Generator) -> None:
        self.plan = plan
        self.decorator = decorator
        self.rng = rng
        self.arranger = Arranger(plan, rng)

    def chance(self, probability: float) -> bool:
        return bool(self.rng.uniform() < probability)

    def along_walls(self, build: Build, count: int = 1, *, low: float = 0.0, clear: float = 0.0) -> list[PlacedItem]:
        """Up to `count` specimens against walls."""
        placed = [
            self.arranger.against_wall(build(self.rng, self.decorator), low=low, clear=clear) for _ in range(count)
        ]
        return [item for item in placed if item is not None]

    def hang(self, build: Build, count: int, *, low: tuple[float, float]) -> None:
        """Up to `count` specimens on walls, each at its own height."""
        for _ in range(count):
            self.arranger.against_wall(build(self.rng, self.decorator), low=self.rng.uniform(*low))

    def fill(self, builds: tuple[Build, ...], *, share: float) -> None:
        """More of the given kinds along the walls until `share` of the floor is taken, or nothing more fits."""
        for _ in range(10):
            if sum(4 * item.box[3] * item.box[4] for item in self.arranger.items) > share * self.plan.area:
                return
            self.along_walls(builds[self.rng.integers(len(builds))])

    def windows(self, count: int, *, curtains: float) -> None:
        """Windows, each with probability `curtains` between two curtains of one fabric."""
        for _ in range(count):
            item = self.arranger.against_wall(
                fixtures.window(self.rng, self.decorator), low=self.rng.uniform(0.85, 1.0)
            )
            if item is None or not self.chance(curtains):
                continue
            drape = fixtures.curtain(self.rng, self.decorator)
            bottom = self.plan.height - 0.05 - drape.size[2]
            for side in (-1, 1):
                offset = side * (item.box[3] + drape.size[0] / 2 - 0.1)
                # In front of the window's sill, so that it may cover the border of the window.
                toward_room = item.box[4] + drape.size[1] / 2 + 0.04
                self.arranger.beside(item, drape, offset=(offset, toward_room), turn=0.0, low=bottom)

    def chairs_around(self, table: PlacedItem, count: int, build: Build) -> None:
        """Up to `count` chairs that face the sides of a table."""
        half_x, half_y = table.box[3:5]
        per_side = max(int(2 * half_x / 0.62), 1)
        places = [
            (x, side) for x in (np.arange(per_side) - (per_side - 1) / 2) * (2 * half_x / per_side) for side in (-1, 1)
        ]
        places += [(end, 0) for end in (-1, 1)]
        seat = build(self.rng, self.decorator)
        for k in self.rng.permutation(len(places))[:count]:
            along, side = places[k]
            reach = seat.size[1] / 2 + self.rng.uniform(0.05, 0.25)
            wobble = self.rng.uniform(-0.2, 0.2)
            if side == 0:
                self.arranger.beside(
                    table, seat, offset=(along * (half_x + reach), 0.0), turn=along * np.pi / 2 + wobble
                )
            else:
                facing = np.pi if side > 0 else 0.0
                self.arranger.beside(table, seat, offset=(along, side * (half_y + reach)), turn=facing + wobble)

    def dining(self, chairs: int) -> None:
        """A table with chairs."""
        table = self.arranger.freely(furniture.dining_table(self.rng, self.decorator), wall_distance=0.35, turn=0.1)
        if table is not None:
            self.chairs_around(table, chairs, furniture.chair)

    def desks(self, count: int) -> None:
        """Desks at walls, most with a chair in front."""
        for item in self.along_walls(furniture.desk, count, clear=0.0):
            seat = (furniture.office_chair if self.chance(0.65) else furniture.chair)(self.rng, self.decorator)
            reach = item.box[4] + seat.size[1] / 2 + self.rng.uniform(0.05, 0.3)
            self.arranger.beside(
                item, seat, offset=(self.rng.uniform(-0.2, 0.2), reach), turn=np.pi + self.rng.uniform(-0.5, 0.5)
            )

    def seating(self) -> None:
        """A sofa at a wall with a coffee table before it, and what goes with it."""
        for sofa in self.along_walls(furniture.couch, clear=0.0):
            if self.chance(0.75):
                low_table = furniture.coffee_table(self.rng, self.decorator)
                reach = sofa.box[4] + low_table.size[1] / 2 + self.rng.uniform(0.25, 0.45)
                self.arranger.beside(sofa, low_table, offset=(self.rng.uniform(-0.2, 0.2), reach), turn=0.0)

    def bed(self) -> None:
        """A bed with its head at a wall and something beside it."""
        for item in self.along_walls(furniture.bed):
            for side in (-1, 1):
                build = furniture.nightstand if self.chance(0.5) else furniture.low_cabinet
                table = build(self.rng, self.decorator)
                offset = side * (item.box[3] + table.size[0] / 2 + 0.06)
                toward_head = -item.box[4] + table.size[1] / 2
                if self.chance(0.6):
                    self.arranger.beside(item, table, offset=(offset, toward_head), turn=0.0)

    def kitchen_line(self) -> None:
        """A counter with sink and cabinets, cabinets above it, a refrigerator."""
        self.along_walls(fixtures.refrigerator, clear=0.5)
        for share in (0.75, 0.5):
            width = max(self.rng.uniform(0.6, 1.0) * share * float(max(self.plan.width, self.plan.depth)), 1.3)
            line = self.arranger.against_wall(
                fixtures.kitchen_counter(self.rng, self.decorator, width=min(width, 3.4)), clear=0.5
            )
            if line is not None and self.chance(0.7):
                upper = fixtures.wall_cabinet(self.rng, self.decorator, width=line.furniture.size[0])
                offset = (0.0, -line.box[4] + upper.size[1] / 2)
                self.arranger.beside(line, upper, offset=offset, turn=0.0, low=self.rng.uniform(1.4, 1.5))
            if line is not None and self.chance(0.7):
                return


def _living_room(f: Furnisher) -> None:
    f.windows(int(f.rng.integers(1, 3)), curtains=0.85)
    f.seating()
    if f.plan.area > 18:
        f.dining(int(f.rng.integers(3, 7)))
    if f.plan.area > 13:
        f.seating()
    f.along_walls(furniture.bookshelf, int(f.rng.integers(1, 3)))
    f.along_walls(furniture.armchair, int(f.rng.integers(0, 3)))
    f.hang(fixtures.tv, int(f.rng.integers(0, 2)), low=(0.9, 1.1))
    f.along_walls(furniture.floor_lamp, int(f.rng.integers(0, 2)))
    if f.chance(0.6):
        f.arranger.freely(furniture.ottoman(f.rng, f.decorator), wall_distance=0.25, turn=3.0)
    f.along_walls(fixtures.radiator, int(f.rng.integers(0, 2)))
    f.hang(fixtures.picture, int(f.rng.integers(2, 6)), low=(1.1, 1.4))
    f.fill((furniture.low_cabinet, furniture.bookshelf, furniture.bench, furniture.armchair), share=0.35)


def _bedroom(f: Furnisher) -> None:
    f.windows(int(f.rng.integers(1, 3)), curtains=0.9)
    f.bed()
    if f.plan.area > 15 and f.chance(0.5):
        f.bed()
    f.along_walls(furniture.wardrobe_closet if f.chance(0.5) else furniture.tall_cabinet, 1, clear=0.3)
    f.desks(int(f.rng.integers(0, 2)))
    f.along_walls(furniture.bench if f.chance(0.4) else furniture.armchair, 1)
    f.hang(fixtures.picture, int(f.rng.integers(2, 5)), low=(1.15, 1.45))
    f.fill((furniture.low_cabinet, furniture.bookshelf, furniture.chair, furniture.ottoman), share=0.38)


def _kitchen(f: Furnisher) -> None:
    f.kitchen_line()
    f.windows(1, curtains=0.8)
    f.dining(int(f.rng.integers(3, 7)))
    f.along_walls(furniture.trash_can, int(f.rng.integers(1, 3)))
    f.windows(int(f.rng.integers(0, 2)), curtains=0.3)
    f.along_walls(fixtures.radiator, int(f.rng.integers(0, 2)))
    f.hang(fixtures.picture, int(f.rng.integers(1, 4)), low=(1.1, 1.4))
    f.fill((furniture.low_cabinet, furniture.tall_cabinet, furniture.chair, furniture.bench), share=0.33)


def _office(f: Furnisher) -> None:
    f.windows(int(f.rng.integers(1, 3)), curtains=0.5)
    f.desks(int(f.rng.integers(2, 5)))
    if f.plan.area > 14:
        f.dining(int(f.rng.integers(2, 6)))
    f.along_walls(furniture.bookshelf, int(f.rng.integers(1, 3)))
    f.along_walls(furniture.file_cabinet, int(f.rng.integers(0, 2)))
    if f.chance(0.3):
        f.seating()
    f.along_walls(furniture.trash_can, int(f.rng.integers(1, 3)))
    f.along_walls(fixtures.radiator, int(f.rng.integers(0, 2)))
    f.hang(fixtures.picture, int(f.rng.integers(1, 4)), low=(1.1, 1.4))
    f.fill((furniture.bookshelf, furniture.tall_cabinet, furniture.chair, furniture.desk), share=0.33)


def _bathroom(f: Furnisher) -> None:
    for tub in f.along_walls(fixtures.bathtub, 1):
        if f.chance(0.9):
            sheet = fixtures.shower_curtain(f.rng, f.decorator, width=f.rng.uniform(0.4, 0.8))
            side = f.rng.choice([-1, 1]) * (tub.box[3] - sheet.size[0] / 2)
            offset = (side, tub.box[4] + sheet.size[1] / 2 + 0.04)
            f.arranger.beside(tub, sheet, offset=offset, turn=0.0, low=0.2)
    f.along_walls(fixtures.toilet, 1, clear=0.3)
    f.along_walls(fixtures.pedestal_sink if f.chance(0.6) else fixtures.vanity, 1, clear=0.3)
    f.along_walls(fixtures.pedestal_sink, 1, clear=0.2)
    f.hang(fixtures.mirror, int(f.rng.integers(0, 2)), low=(1.1, 1.3))
    f.windows(int(f.rng.integers(0, 2)), curtains=0.3)
    f.along_walls(fixtures.radiator, int(f.rng.integers(0, 2)))
    f.along_walls(furniture.trash_can, int(f.rng.integers(0, 2)))
    f.hang(fixtures.picture, int(f.rng.integers(0, 2)), low=(1.3, 1.5))
    f.fill((fixtures.toilet, furniture.low_cabinet, furniture.ottoman), share=0.35)


def _studio(f: Furnisher) -> None:
    f.kitchen_line()
    f.windows(int(f.rng.integers(1, 3)), curtains=0.8)
    f.bed()
    f.seating()
    f.dining(int(f.rng.integers(2, 5)))
    f.desks(1)
    f.along_walls(furniture.bookshelf, 1)
    f.along_walls(furniture.tall_cabinet if f.chance(0.5) else furniture.wardrobe_closet, 1)
    f.along_walls(furniture.trash_can, 1)
    f.hang(fixtures.picture, int(f.rng.integers(1, 4)), low=(1.1, 1.4))


@dataclass(frozen=True)
class RoomType:
    """A kind of room.

    Args:
        name: the `sceneType` of ScanNet.
        share: how often it occurs.
        side: shortest and longest side, metres.
        floors: finishes of the floor to choose from.
        tiled_walls: probability of tiled walls.
        furnish: puts the furniture in.
    """

    name: str
    share: float
    side: tuple[float, float]
    floors: tuple[str, ...]
    tiled_walls: float
    furnish: Callable[[Furnisher], None]


DRY_FLOORS = ('floor boards', 'floor boards', 'carpet')
ROOM_TYPES = (
    RoomType('Living room / Lounge', 0.2, (3.4, 5.8), DRY_FLOORS, 0.0, _living_room),
    RoomType('Bedroom / Hotel', 0.18, (3.0, 4.8), DRY_FLOORS, 0.0, _bedroom),
    RoomType('Kitchen', 0.2, (3.0, 4.8), ('floor boards', 'floor tiles', 'floor tiles'), 0.25, _kitchen),
    RoomType('Office', 0.14, (3.0, 5.6), ('floor boards', 'carpet', 'carpet', 'floor tiles'), 0.0, _office),
    RoomType('Bathroom', 0.22, (2.4, 3.6), ('floor tiles', 'floor tiles', 'floor boards'), 0.65, _bathroom),
    RoomType('Apartment', 0.06, (5.0, 7.0), ('floor boards', 'floor tiles'), 0.0, _studio),
)


def draw_room_type(rng: np.random.Generator, types: tuple[RoomType, ...] = ROOM_TYPES) -> RoomType:
    """One of `types` by its share."""
    shares = np.array([kind.share for kind in types])
    return types[rng.choice(len(types), p=shares / shares.sum())]


def draw_floor_plan(kind: RoomType, rng: np.random.Generator) -> FloorPlan:
    """A rectangular or, for larger rooms in one case of three, L-shaped plan."""
    width, depth = rng.uniform(*kind.side, 2)
    notch = (0.0, 0.0)
    if min(width, depth) > 4.0 and rng.uniform() < 0.33:
        notch = (width * rng.uniform(0.25, 0.45), depth * rng.uniform(0.25, 0.45))
    return FloorPlan(width=width, depth=depth, height=rng.uniform(2.4, 2.8), notch=notch)


def furnish(kind: RoomType, plan: FloorPlan, decorator: Decorator, rng: np.random.Generator) -> list[PlacedItem]:
    """Doors first, then what the room type asks for, big things before small ones."""
    furnisher = Furnisher(plan, decorator, rng)
    furnisher.along_walls(fixtures.door, 1 if plan.area < 14 or furnisher.chance(0.6) else 2, clear=0.7)
    kind.furnish(furnisher)
    return furnisher.arranger.items
