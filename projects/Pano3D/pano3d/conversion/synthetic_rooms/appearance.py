"""Materials: which texture, tint and size the surfaces of a room have.

Every finish (wood, lacquer, fabric, ...) has a palette wide enough that one class looks different from room to room,
and classes share finishes, so that colour alone does not tell the class.
"""

from __future__ import annotations

from collections.abc import Sequence
from colorsys import hsv_to_rgb
from dataclasses import dataclass

import numpy as np

from .categories import RAW_CATEGORIES, SHELL
from .textures import texture_bank

_WOODS = ((0.80, 0.62, 0.42), (0.66, 0.45, 0.27), (0.47, 0.30, 0.19), (0.33, 0.21, 0.15), (0.88, 0.77, 0.60))
_WHITES = ((0.95, 0.95, 0.94), (0.90, 0.89, 0.86), (0.85, 0.86, 0.88), (0.96, 0.94, 0.88))
_GREYS = ((0.30, 0.31, 0.33), (0.50, 0.51, 0.52), (0.68, 0.68, 0.69), (0.16, 0.16, 0.17))
_METALS = ((0.72, 0.73, 0.75), (0.58, 0.59, 0.61), (0.40, 0.41, 0.43))
_VIVID = (
    (0.70, 0.22, 0.20),
    (0.20, 0.38, 0.62),
    (0.24, 0.50, 0.34),
    (0.85, 0.65, 0.22),
    (0.50, 0.28, 0.48),
    (0.16, 0.24, 0.42),
    (0.80, 0.45, 0.25),
    (0.25, 0.55, 0.58),
)
_PASTELS = ((0.93, 0.90, 0.80), (0.82, 0.88, 0.92), (0.85, 0.91, 0.82), (0.93, 0.84, 0.82), (0.90, 0.86, 0.93))
_LEATHERS = ((0.36, 0.20, 0.13), (0.17, 0.14, 0.13), (0.62, 0.45, 0.30), (0.82, 0.78, 0.70))
_STONES = ((0.25, 0.25, 0.27), (0.55, 0.52, 0.50), (0.82, 0.80, 0.77), (0.45, 0.38, 0.33))
_EARTHS = ((0.62, 0.55, 0.46), (0.50, 0.48, 0.46), (0.42, 0.36, 0.32), (0.55, 0.58, 0.62))


@dataclass(frozen=True)
class Finish:
    """What a kind of surface may look like.

    Args:
        textures: names in the texture bank.
        palette: tints to draw from, display values in [0, 1].
        tile: smallest and largest side of one texture repeat, metres; None stretches it over each quad.
        glow: share of the light that comes from the surface itself.
    """

    textures: tuple[str, ...]
    palette: tuple[tuple[float, float, float], ...]
    tile: tuple[float, float] | None
    glow: float = 0.0


_LACQUERS = (*_WHITES, *_GREYS, *_WOODS, *_VIVID[:3])
_OWN_COLORS = ((1.0, 1.0, 1.0),)
FINISHES: dict[str, Finish] = {
    'wood': Finish(('grain',), _WOODS, (0.5, 1.0)),
    'lacquer': Finish(('plain',), (*_WHITES, *_GREYS, *_VIVID), (0.8, 1.2)),
    'white': Finish(('plain',), _WHITES, (0.8, 1.2)),
    'metal': Finish(('plain',), _METALS, (0.5, 1.0)),
    'black': Finish(('plain',), ((0.12, 0.12, 0.13), (0.2, 0.19, 0.19)), (0.5, 1.0)),
    'ceramic': Finish(('plain',), ((0.96, 0.96, 0.95), (0.93, 0.92, 0.88), (0.86, 0.89, 0.92)), (0.8, 1.2)),
    'fabric': Finish(('weave', 'weave', 'stripes'), (*_VIVID, *_GREYS, *_EARTHS, *_PASTELS[:2]), (0.4, 0.8)),
    'leather': Finish(('plain',), _LEATHERS, (0.5, 1.0)),
    'linen': Finish(('weave', 'stripes', 'lattice', 'plain'), (*_PASTELS, *_WHITES, *_VIVID), (0.5, 1.0)),
    'drapery': Finish(('weave', 'stripes', 'lattice'), (*_PASTELS, *_VIVID, *_EARTHS), (0.5, 1.0)),
    'vinyl': Finish(('stripes', 'lattice', 'plain', 'checker'), (*_PASTELS, *_WHITES, *_VIVID[:4]), (0.4, 0.8)),
    'stone': Finish(('speckle', 'plain'), (*_STONES, *_WOODS[:2]), (0.3, 0.6)),
    'wall paint': Finish(('plain', 'plain', 'plain', 'lattice', 'stripes'), (*_PASTELS, *_WHITES), (0.8, 1.4)),
    'accent wall': Finish(('plain', 'bricks', 'lattice'), (*_VIVID, *_EARTHS), (0.9, 1.4)),
    'wall tiles': Finish(('tiles',), (*_WHITES, *_PASTELS), (0.6, 1.0)),
    'floor boards': Finish(('planks',), _WOODS, (0.7, 1.1)),
    'floor tiles': Finish(('tiles', 'checker'), (*_EARTHS, *_WHITES, *_STONES), (1.0, 1.8)),
    'carpet': Finish(('carpet',), (*_EARTHS, *_GREYS[1:3], *_VIVID[1:3]), (0.6, 1.0)),
    'cabinet doors': Finish(('cabinet doors',), _LACQUERS, None),
    'drawers': Finish(('drawers',), _LACQUERS, None),
    'door leaf': Finish(('door leaf',), (*_WOODS, *_WHITES), None),
    'fridge': Finish(('fridge',), (*_WHITES, *_METALS), None),
    'books': Finish(('books',), _OWN_COLORS, None),
    'painting': Finish(('painting',), _OWN_COLORS, None),
    'view': Finish(('view',), _OWN_COLORS, None, glow=0.8),
    'mirror': Finish(('mirror',), ((0.7, 0.75, 0.8),), None),
    'screen': Finish(('screen',), _OWN_COLORS, None),
    'lampshade': Finish(('plain',), (_PASTELS[0], _WHITES[3]), (0.5, 1.0), glow=0.7),
}


class Decorator:
    """The materials of one room, drawn as they are asked for.

    Args:
        rng: source of all choices.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._rows: list[tuple[float, ...]] = []
        self._main_wood = _WOODS[rng.integers(len(_WOODS))]

    def draw(self, finish: str, *, like: int | None = None) -> int:
        """A new material of a finish; returns its number. `like` takes over the tint of another material."""
        rng, recipe = self._rng, FINISHES[finish]
        names = recipe.textures
        variants = texture_bank().variants[names[rng.integers(len(names))]]
        texture = variants[rng.integers(len(variants))]
        tint = np.array(recipe.palette[rng.integers(len(recipe.palette))])
        if finish == 'wood' and rng.uniform() < 0.5:
            tint = np.array(self._main_wood)
        tint = np.clip(tint * rng.uniform(0.85, 1.1) * rng.uniform(0.95, 1.05, 3), 0.03, 1.0)
        if like is not None:
            tint = np.array(self._rows[like][1:4])
        tile = 0.0 if recipe.tile is None else rng.uniform(*recipe.tile)
        self._rows.append((texture, *tint, tile, recipe.glow))
        return len(self._rows) - 1

    def one_of(self, *finishes: str) -> int:
        """A new material of one of the finishes."""
        return self.draw(finishes[self._rng.integers(len(finishes))])

    def materials(self) -> Materials:
        """All materials drawn so far."""
        table = np.array(self._rows, np.float32).reshape(-1, 6)
        return Materials(texture=table[:, 0].astype(np.int32), tint=table[:, 1:4], tile=table[:, 4], glow=table[:, 5])


@dataclass(frozen=True, eq=False)
class Materials:
    """Numbered materials.

    Args:
        texture: (M,) number in the texture bank.
        tint: (M, 3) display values.
        tile: (M,) metres per texture repeat, 0 where the texture is stretched over each quad.
        glow: (M,) share of own light.
    """

    texture: np.ndarray
    tint: np.ndarray
    tile: np.ndarray
    glow: np.ndarray


def typical_colors(categories: Sequence[str]) -> np.ndarray:
    """One colour per class of furniture (nyu40), far apart from each other: (len(categories), 3), display values.

    The shell of the room (wall, floor, ceiling) is white: it has no colour of its own.
    """
    classes = sorted({category.nyu40_id for category in RAW_CATEGORIES.values() if category.name not in SHELL})
    # The hue step, saturations and values were searched for the largest smallest distance between two classes.
    palette = {
        nyu40: hsv_to_rgb(0.62 * k % 1.0, (0.9, 0.5)[k // 3 % 2], (0.95, 0.65, 0.4)[k % 3])
        for k, nyu40 in enumerate(classes)
    }
    return np.array([palette.get(RAW_CATEGORIES[name].nyu40_id, (1.0, 1.0, 1.0)) for name in categories], np.float32)
