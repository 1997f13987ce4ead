"""A piece of furniture as quads with materials, and the bench on which it is built."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from .shapes import SIDES, Interval, box

STANDING = tuple(side for side in SIDES if side != 'bottom')
AGAINST_WALL = tuple(side for side in STANDING if side != 'back')
HANGING = tuple(side for side in SIDES if side != 'back')


@dataclass(frozen=True, eq=False)
class Furniture:
    """One or several annotated objects that are placed together, in a local frame.

    The origin is the centre of the footprint at the lowest point; x along the wall behind, y to the front, z up.

    Args:
        size: extents (x, y, z) of the bounding box in metres.
        categories: raw category of each object.
        quads: (Q, 4, 3).
        materials: (Q,) material numbers.
        object_of_quad: (Q,) index into `categories`.
    """

    size: tuple[float, float, float]
    categories: tuple[str, ...]
    quads: np.ndarray
    materials: np.ndarray
    object_of_quad: np.ndarray


class Modeller:
    """Collects the quads of one piece of furniture.

    Args:
        category: raw category of the first object.
    """

    def __init__(self, category: str) -> None:
        self._categories = [category]
        self._quads: list[np.ndarray] = []
        self._materials: list[int] = []
        self._objects: list[int] = []

    def start(self, category: str) -> None:
        """What follows belongs to another object."""
        self._categories.append(category)

    def add(self, material: int, quads: np.ndarray) -> None:
        """Add quads (n, 4, 3)."""
        self._quads.append(quads)
        self._materials += [material] * len(quads)
        self._objects += [len(self._categories) - 1] * len(quads)

    def box(
        self,
        material: int,
        x: Interval,
        y: Interval,
        z: Interval,
        *,
        sides: Collection[str] = STANDING,
        front: int | None = None,
    ) -> None:
        """Add the named sides of a box; `front` is the material of its front where that differs."""
        if front is None:
            self.add(material, box(x, y, z, sides=sides))
        else:
            self.add(material, box(x, y, z, sides=[side for side in sides if side != 'front']))
            self.add(front, box(x, y, z, sides=['front']))

    def finish(self) -> Furniture:
        """The finished piece, its footprint centred and its lowest point at z = 0."""
        quads = np.concatenate(self._quads)
        low, high = quads.min(axis=(0, 1)), quads.max(axis=(0, 1))
        origin = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
        size = high - low
        return Furniture(
            size=(float(size[0]), float(size[1]), float(size[2])),
            categories=tuple(self._categories),
            quads=quads - origin,
            materials=np.array(self._materials),
            object_of_quad=np.array(self._objects),
        )
