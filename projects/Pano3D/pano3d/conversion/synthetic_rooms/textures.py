"""A small bank of procedural textures, the same in every process.

A texture is an image (64, 64, 3) of display values about 1 that a material multiplies with its tint; pictures and
window views carry their own colours. Row 0 is the lower edge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

SIDE = 64
NUM_LEVELS = 4

_X, _Y = np.meshgrid((np.arange(SIDE) + 0.5) / SIDE, (np.arange(SIDE) + 0.5) / SIDE)
Texture = np.ndarray


@dataclass(frozen=True, eq=False)
class TextureBank:
    """All textures with their coarser levels, as one list of texels.

    Args:
        texels: (M, 3) float32; of each texture in turn its levels of side 64, 32, 16, 8, row by row.
        variants: texture numbers by name.
    """

    texels: np.ndarray
    variants: dict[str, tuple[int, ...]]

    def sample(self, texture: np.ndarray, uv: np.ndarray, level: np.ndarray) -> np.ndarray:
        """Nearest texels (N, 3) at uv (N, 2), which repeat with period 1, of integer `level` (N,) in 0..3."""
        side = SIDE >> level
        wrapped = (uv - np.floor(uv)) * side[:, None]
        column, row = np.minimum(wrapped.astype(np.int32), side[:, None] - 1).T
        return self.texels[texture * _TEXELS_PER_TEXTURE + _LEVEL_OFFSET[level] + row * side + column]


_LEVEL_SIZES = np.array([(SIDE >> level) ** 2 for level in range(NUM_LEVELS)])
_LEVEL_OFFSET = np.cumsum(_LEVEL_SIZES) - _LEVEL_SIZES
_TEXELS_PER_TEXTURE = int(_LEVEL_SIZES.sum())


@cache
def texture_bank() -> TextureBank:
    """The bank; made once per process."""
    texels: list[np.ndarray] = []
    variants: dict[str, tuple[int, ...]] = {}
    for name, images in _all_textures():
        variants[name] = tuple(range(len(texels), len(texels) + len(images)))
        texels.extend(_with_levels(image) for image in images)
    return TextureBank(np.concatenate(texels).astype(np.float32), variants)


def _with_levels(image: Texture) -> np.ndarray:
    levels = [image]
    for _ in range(NUM_LEVELS - 1):
        fine = levels[-1]
        levels.append(fine.reshape(len(fine) // 2, 2, -1, 2, 3).mean(axis=(1, 3)))
    return np.concatenate([level.reshape(-1, 3) for level in levels])


def _all_textures() -> Iterator[tuple[str, list[Texture]]]:
    makers: dict[str, tuple[Callable[[np.random.Generator], Texture], int]] = {
        'plain': (_plain, 2),
        'grain': (_grain, 3),
        'planks': (_planks, 3),
        'tiles': (_tiles, 3),
        'checker': (_checker, 2),
        'bricks': (_bricks, 1),
        'speckle': (_speckle, 2),
        'weave': (_weave, 2),
        'carpet': (_carpet, 2),
        'stripes': (_stripes, 3),
        'lattice': (_lattice, 2),
        'cabinet doors': (_cabinet_doors, 3),
        'drawers': (_drawers, 3),
        'door leaf': (_door_leaf, 3),
        'fridge': (_fridge, 2),
        'books': (_books, 6),
        'painting': (_painting, 12),
        'view': (_view, 5),
        'mirror': (_mirror, 2),
        'screen': (_screen, 1),
    }
    for number, (name, (make, count)) in enumerate(makers.items()):
        yield name, [make(np.random.default_rng([number, variant])) for variant in range(count)]


def _grey(values: np.ndarray) -> Texture:
    return np.repeat(values[:, :, None], 3, axis=2)


def _smooth_noise(rng: np.random.Generator, cells_x: int, cells_y: int) -> np.ndarray:
    """Periodic noise in [-1, 1], (64, 64), bilinear between cells_x * cells_y random values."""
    values = rng.uniform(-1, 1, (cells_y, cells_x))
    x, y = _X * cells_x, _Y * cells_y
    column, row = x.astype(int), y.astype(int)
    fx, fy = x - column, y - row
    right, up = (column + 1) % cells_x, (row + 1) % cells_y
    lower = values[row, column] * (1 - fx) + values[row, right] * fx
    upper = values[up, column] * (1 - fx) + values[up, right] * fx
    return lower * (1 - fy) + upper * fy


def _plain(rng: np.random.Generator) -> Texture:
    return _grey(1 + 0.02 * _smooth_noise(rng, 4, 4) + 0.01 * rng.standard_normal((SIDE, SIDE)))


def _grain(rng: np.random.Generator) -> Texture:
    return _grey(1 + 0.08 * _smooth_noise(rng, 2, 32) + 0.06 * _smooth_noise(rng, 4, 11))


def _planks(rng: np.random.Generator) -> Texture:
    count = int(rng.integers(4, 8))
    plank = (_Y * count).astype(int)
    shade = rng.uniform(-0.12, 0.1, count)[plank] + 0.05 * _smooth_noise(rng, 3, 40)
    across = (_Y * count) % 1 < 0.1
    ends = np.abs((_X - rng.uniform(0, 1, count)[plank]) % 1) < 0.025
    return _grey(1 + shade - 0.35 * (across | ends))


def _tiles(rng: np.random.Generator) -> Texture:
    count = 4
    x, y = (_X * count) % 1, (_Y * count) % 1
    shade = rng.uniform(-0.05, 0.05, (count, count))[(_Y * count).astype(int), (_X * count).astype(int)]
    joint = (np.minimum(x, y) < 0.08) * rng.uniform(-0.3, 0.15)
    return _grey(1 + shade + joint)


def _checker(rng: np.random.Generator) -> Texture:
    dark = ((_X * 4).astype(int) + (_Y * 4).astype(int)) % 2 == 0
    return _grey(np.where(dark, rng.uniform(0.35, 0.7), 1.0))


def _bricks(rng: np.random.Generator) -> Texture:
    row = (_Y * 8).astype(int)
    x = (_X * 4 + 0.5 * (row % 2)) % 4
    joint = (x % 1 < 0.08) | ((_Y * 8) % 1 < 0.15)
    return _grey(np.where(joint, 1.2, 0.95 + rng.uniform(-0.15, 0.1, (8, 4))[row, x.astype(int)]))


def _speckle(rng: np.random.Generator) -> Texture:
    return _grey(1 + 0.12 * rng.standard_normal((SIDE, SIDE)).clip(-2, 2) + 0.08 * _smooth_noise(rng, 6, 6))


def _weave(rng: np.random.Generator) -> Texture:
    threads = 0.05 * np.sin(_X * 32 * np.pi) * np.sin(_Y * 32 * np.pi)
    return _grey(1 + threads + 0.05 * _smooth_noise(rng, 8, 8))


def _carpet(rng: np.random.Generator) -> Texture:
    return _grey(1 + 0.08 * rng.standard_normal((SIDE, SIDE)).clip(-2, 2) + 0.06 * _smooth_noise(rng, 5, 5))


def _stripes(rng: np.random.Generator) -> Texture:
    bands = (_X * rng.integers(3, 9) * 2).astype(int) % 2
    other = rng.uniform(0.6, 1.0, 3)
    return np.where(bands[..., None] == 0, 1.0, other) + 0.02 * rng.standard_normal((SIDE, SIDE, 1))


def _lattice(rng: np.random.Generator) -> Texture:
    wave = np.sin((_X + _Y) * 8 * np.pi) * np.sin((_X - _Y) * 8 * np.pi)
    return 1 - rng.uniform(0.08, 0.25, 3) * (wave > 0.3)[..., None]


def _cabinet_doors(rng: np.random.Generator) -> Texture:
    shade = 1 + 0.03 * _smooth_noise(rng, 2, 16)
    edge = np.minimum.reduce([np.abs(_X - 0.5), _X, 1 - _X, _Y, 1 - _Y]) < 0.025
    inset = np.abs(np.abs(_X - 0.5) - 0.25) < 0.15
    shade -= 0.08 * (inset & (np.abs(_Y - 0.5) < 0.36)) * rng.integers(0, 2)
    handle = (np.abs(np.abs(_X - 0.5) - 0.07) < 0.022) & (np.abs(_Y - 0.65) < 0.1)
    return _grey(shade - 0.45 * edge - 0.5 * handle)


def _drawers(rng: np.random.Generator) -> Texture:
    count = int(rng.integers(3, 5))
    y = (_Y * count) % 1
    edge = np.minimum.reduce([y, 1 - y, _X * count, (1 - _X) * count]) < 0.08
    handle = (np.abs(_X - 0.5) < 0.15) & (np.abs(y - 0.6) < 0.09)
    return _grey(1 + 0.03 * _smooth_noise(rng, 2, 16) - 0.45 * edge - 0.5 * handle)


def _door_leaf(rng: np.random.Generator) -> Texture:
    shade = 1 + 0.04 * _smooth_noise(rng, 12, 2)
    for low, high in ((0.08, 0.4), (0.48, 0.92)):
        x_in, y_in = 0.34 - np.abs(_X - 0.5), np.minimum(_Y - low, high - _Y)
        shade -= 0.18 * (np.abs(np.minimum(x_in, y_in)) < rng.uniform(0.015, 0.035))
    return _grey(shade)


def _fridge(rng: np.random.Generator) -> Texture:
    seam = np.abs(_Y - rng.uniform(0.6, 0.75)) < 0.014
    handle = (np.abs(_X - 0.12) < 0.035) & (np.abs(_Y - 0.5) < 0.33) & (np.abs(_Y - 0.67) > 0.06)
    return _grey(1 + 0.06 * (_X - 0.5) - 0.5 * seam - 0.4 * handle)


def _books(rng: np.random.Generator) -> Texture:
    image = np.full((SIDE, SIDE, 3), 0.12)
    column = 0
    while column < SIDE:
        width, height = int(rng.integers(2, 6)), int(SIDE * rng.uniform(0.6, 0.97))
        if rng.uniform() < 0.92:
            color = rng.uniform(0.1, 0.9, 3) * rng.uniform(0.6, 1.0)
            image[:height, column : column + width] = color
            image[int(height * 0.7) : int(height * 0.8), column : column + width] = 0.6 * color + 0.3
        image[:, min(column + width, SIDE) - 1] *= 0.6
        column += width
    return image


def _painting(rng: np.random.Generator) -> Texture:
    image = np.broadcast_to(rng.uniform(0.2, 1.0, 3), (SIDE, SIDE, 3)).copy()
    image[rng.uniform(0.1, 0.6) > _Y] = rng.uniform(0.05, 0.9, 3)
    for _ in range(int(rng.integers(3, 9))):
        x, y = rng.uniform(0.1, 0.9, 2)
        radius_x, radius_y = rng.uniform(0.06, 0.35, 2)
        if rng.uniform() < 0.5:
            inside = ((_X - x) / radius_x) ** 2 + ((_Y - y) / radius_y) ** 2 < 1
        else:
            inside = (np.abs(_X - x) < radius_x) & (np.abs(_Y - y) < radius_y)
        image[inside] = rng.uniform(0, 1, 3)
    if rng.uniform() < 0.5:
        border = np.minimum.reduce([_X, 1 - _X, _Y, 1 - _Y]) < 0.12
        image[border] = rng.uniform(0.8, 1.0)
    return image + 0.04 * _smooth_noise(rng, 16, 16)[..., None]


def _view(rng: np.random.Generator) -> Texture:
    sky = np.array([0.75, 0.85, 1.0]) * (0.9 + 0.15 * _Y[..., None])
    horizon = rng.uniform(0.15, 0.5) + 0.08 * _smooth_noise(rng, 6, 1)
    ground = np.array([[0.35, 0.5, 0.3], [0.55, 0.5, 0.45], [0.45, 0.55, 0.4]])[rng.integers(0, 3)]
    image = np.where((horizon > _Y)[..., None], ground + 0.12 * _smooth_noise(rng, 8, 8)[..., None], sky)
    return np.minimum(image, 1.1)


def _mirror(rng: np.random.Generator) -> Texture:
    return _grey(0.8 + 0.25 * _smooth_noise(rng, 3, 3) + 0.15 * ((_X + _Y) % 0.7 < 0.15))


def _screen(rng: np.random.Generator) -> Texture:
    return _grey(0.1 + 0.05 * ((_X + _Y) % 0.9 < 0.2) + 0.01 * _smooth_noise(rng, 4, 4))
