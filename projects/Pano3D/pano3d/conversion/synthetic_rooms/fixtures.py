"""What belongs to walls, kitchens and bathrooms; every call makes another specimen."""

from __future__ import annotations

import numpy as np

from .appearance import Decorator
from .modelling import AGAINST_WALL, HANGING, STANDING, Furniture, Modeller
from .shapes import SIDES, box, folded_sheet, inside_of_box, prism

Rng = np.random.Generator
_AROUND = ('left', 'right', 'front', 'back')


def _framed(model: Modeller, frame: int, width: float, z: tuple[float, float], border: float, depth: float) -> None:
    """Four boards around a rectangle, standing out of a wall by `depth`."""
    half, (low, high) = width / 2, z
    for x in (-half, half - border):
        model.box(frame, (x, x + border), (0, depth), (low, high), sides=HANGING)
    inner = (-half + border, half - border)
    for bottom in (low, high - border):
        model.box(frame, inner, (0, depth), (bottom, bottom + border), sides=('front', 'top', 'bottom'))


def door(rng: Rng, decorator: Decorator) -> Furniture:
    """A closed door: frame, inset leaf, handle."""
    model = Modeller('door')
    width, height, border = rng.uniform(0.9, 1.15), rng.uniform(2.0, 2.15), rng.uniform(0.07, 0.1)
    leaf = decorator.one_of('door leaf', 'door leaf', 'wood', 'lacquer')
    frame = leaf if rng.uniform() < 0.3 else decorator.one_of('white', 'wood')
    half = width / 2 - border
    _framed(model, decorator.draw('lacquer', like=frame), width, (0, height), border, 0.06)
    model.add(leaf, box((-half, half), (0, 0.03), (0, height - border), sides=['front']))
    side = rng.choice([-1, 1])
    knob = sorted((side * (half - 0.05), side * (half - 0.17)))
    model.box(decorator.draw('metal'), (knob[0], knob[1]), (0.03, 0.06), (1.0, 1.04), sides=HANGING)
    return model.finish()


def window(rng: Rng, decorator: Decorator) -> Furniture:
    """A window: frame, sill, panes with the view outside, glazing bars."""
    model = Modeller('window')
    width, height = rng.uniform(0.9, 2.0), rng.uniform(0.9, 1.4)
    frame, border = decorator.one_of('white', 'white', 'wood', 'black'), rng.uniform(0.05, 0.08)
    half = width / 2 - border
    _framed(model, frame, width, (0, height), border, 0.05)
    model.add(decorator.draw('view'), box((-half, half), (0, 0.015), (border, height - border), sides=['front']))
    for k in range(1, max(round(width / 0.6), 2)):
        x = -width / 2 + k * width / max(round(width / 0.6), 2)
        model.box(
            frame, (x - 0.02, x + 0.02), (0.015, 0.04), (border, height - border), sides=('front', 'left', 'right')
        )
    model.box(frame, (-width / 2, width / 2), (0.05, 0.09), (0, 0.03), sides=HANGING)
    return model.finish()


def curtain(rng: Rng, decorator: Decorator) -> Furniture:
    """A curtain in folds, from below the ceiling almost to the floor."""
    model = Modeller('curtain')
    width, height = rng.uniform(0.45, 0.9), rng.uniform(2.0, 2.2)
    sheet = folded_sheet((-width / 2, width / 2), (-0.04, 0.04), (0, height), folds=max(round(width / 0.14), 3))
    model.add(decorator.draw('drapery'), sheet)
    return model.finish()


def picture(rng: Rng, decorator: Decorator) -> Furniture:
    """A framed picture."""
    model = Modeller('picture')
    width, height, border = rng.uniform(0.45, 1.2), rng.uniform(0.45, 0.85), rng.uniform(0.02, 0.05)
    _framed(model, decorator.one_of('wood', 'black', 'white', 'metal'), width, (0, height), border, 0.035)
    half = width / 2 - border
    model.add(decorator.draw('painting'), box((-half, half), (0, 0.02), (border, height - border), sides=['front']))
    return model.finish()


def mirror(rng: Rng, decorator: Decorator) -> Furniture:
    """A framed mirror without a true reflection."""
    model = Modeller('mirror')
    width, height = rng.uniform(0.5, 0.8), rng.uniform(0.6, 0.9)
    _framed(model, decorator.one_of('wood', 'metal', 'white'), width, (0, height), 0.03, 0.03)
    half = width / 2 - 0.03
    model.add(decorator.draw('mirror'), box((-half, half), (0, 0.015), (0.03, height - 0.03), sides=['front']))
    return model.finish()


def tv(rng: Rng, decorator: Decorator) -> Furniture:
    """A flat screen on the wall."""
    model = Modeller('tv')
    width = rng.uniform(0.9, 1.3)
    model.box(
        decorator.draw('black'),
        (-width / 2, width / 2),
        (0, 0.05),
        (0, width * 0.58),
        sides=HANGING,
        front=decorator.draw('screen'),
    )
    return model.finish()


def radiator(rng: Rng, decorator: Decorator) -> Furniture:
    """A ribbed radiator."""
    model = Modeller('radiator')
    ribs, height, paint = int(rng.integers(9, 15)), rng.uniform(0.5, 0.7), decorator.one_of('white', 'white', 'metal')
    half = ribs * 0.04
    model.box(paint, (-half, half), (0.03, 0.06), (0.1, height - 0.05), sides=HANGING)
    for k in range(ribs):
        x = -half + 0.08 * k + 0.01
        model.box(paint, (x, x + 0.05), (0, 0.1), (0.08, height), sides=HANGING)
    return model.finish()


def refrigerator(rng: Rng, decorator: Decorator) -> Furniture:
    """A refrigerator with a freezer compartment and handles."""
    model = Modeller('refrigerator')
    half, depth, height = rng.uniform(0.33, 0.45), rng.uniform(0.65, 0.75), rng.uniform(1.55, 1.95)
    front = decorator.draw('fridge')
    body, handle = decorator.draw('lacquer', like=front), decorator.one_of('metal', 'black', 'white')
    model.box(body, (-half, half), (-depth / 2, depth / 2), (0.03, height), sides=AGAINST_WALL, front=front)
    for low, high in ((0.35, 0.62), (0.7, 0.9)):
        model.box(
            handle,
            (half - 0.09, half - 0.05),
            (depth / 2, depth / 2 + 0.045),
            (low * height, high * height),
            sides=SIDES,
        )
    return model.finish()


def _basin(
    model: Modeller, rng: Rng, decorator: Decorator, x: float, half: tuple[float, float], y: float, top: float
) -> None:
    """A sink let into a slab whose hole it fills: inner faces, a rim above the slab, a tap behind."""
    model.start('sink')
    material = decorator.one_of('metal', 'ceramic', 'ceramic')
    hole = (x - half[0], x + half[0]), (y - half[1], y + half[1])
    model.add(material, inside_of_box(*hole, (top - 0.15, top + 0.02), sides=(*_AROUND, 'bottom')))
    for side in (-1, 1):
        edge = sorted((x + side * half[0], x + side * (half[0] + 0.05)))
        model.box(material, (edge[0], edge[1]), (hole[1][0] - 0.05, hole[1][1] + 0.05), (top, top + 0.02))
        edge = sorted((y + side * half[1], y + side * (half[1] + 0.05)))
        model.box(material, hole[0], (edge[0], edge[1]), (top, top + 0.02), sides=('front', 'back', 'top'))
    tap, reach = hole[1][0] - 0.03, rng.uniform(0.12, 0.18)
    model.box(material, (x - 0.02, x + 0.02), (tap - 0.02, tap + 0.02), (top + 0.02, top + 0.24))
    model.box(material, (x - 0.02, x + 0.02), (tap + 0.02, tap + reach), (top + 0.2, top + 0.24), sides=SIDES)


def counter_with_sink(
    rng: Rng, decorator: Decorator, *, width: float, depth: float, height: float, cabinet: str
) -> Furniture:
    """Base cabinets (`cabinet`), a counter slab on them, and a sink let into it."""
    model = Modeller(cabinet)
    half, rear, front, slab = width / 2, -depth / 2, depth / 2, height - rng.uniform(0.05, 0.1)
    facade = decorator.one_of('cabinet doors', 'cabinet doors', 'drawers')
    body = decorator.draw('lacquer', like=facade)
    model.box(body, (-half, half), (rear, front - 0.05), (0.08, slab), sides=('left', 'right', 'front'))
    modules = max(round(width / 0.6), 1)
    for k in range(modules):
        leaf = (-half + k * width / modules + 0.004, -half + (k + 1) * width / modules - 0.004)
        model.box(body, leaf, (front - 0.05, front - 0.03), (0.08, slab), sides=STANDING, front=facade)
    model.box(body, (-half, half), (rear, front - 0.09), (0, 0.08), sides=('left', 'right', 'front'))

    model.start('counter')
    stone = decorator.one_of('stone', 'stone', 'wood', 'white')
    basin = (min(rng.uniform(0.24, 0.36), half - 0.12), depth / 2 - 0.13)
    x, y = rng.uniform(-1, 1) * (half - basin[0] - 0.1), 0.02
    # No sides towards the hole: the basin's faces are there.
    model.box(stone, (-half, x - basin[0]), (rear, front), (slab, height), sides=('left', 'front', 'top', 'bottom'))
    model.box(stone, (x + basin[0], half), (rear, front), (slab, height), sides=('right', 'front', 'top', 'bottom'))
    hole = (x - basin[0], x + basin[0])
    model.box(stone, hole, (y + basin[1], front), (slab, height), sides=('front', 'top', 'bottom'))
    model.box(stone, hole, (rear, y - basin[1]), (slab, height), sides=('top', 'bottom'))
    if rng.uniform() < 0.5:
        model.box(
            stone, (-half, half), (rear, rear + 0.02), (height, height + 0.1), sides=('front', 'top', 'left', 'right')
        )
    _basin(model, rng, decorator, x, basin, y, height)
    return model.finish()


def kitchen_counter(rng: Rng, decorator: Decorator, *, width: float) -> Furniture:
    """A kitchen line of a given width."""
    height = rng.uniform(0.86, 0.94)
    return counter_with_sink(rng, decorator, width=width, depth=0.64, height=height, cabinet='kitchen cabinet')


def vanity(rng: Rng, decorator: Decorator) -> Furniture:
    """A bathroom vanity with counter and sink."""
    width, height = rng.uniform(0.8, 1.3), rng.uniform(0.78, 0.88)
    return counter_with_sink(rng, decorator, width=width, depth=0.55, height=height, cabinet='bathroom vanity')


def wall_cabinet(rng: Rng, decorator: Decorator, *, width: float) -> Furniture:
    """Kitchen cabinets that hang on the wall."""
    model = Modeller('kitchen cabinet')
    facade = decorator.draw('cabinet doors')
    body, height, modules = decorator.draw('lacquer', like=facade), rng.uniform(0.55, 0.75), max(round(width / 0.6), 1)
    model.box(body, (-width / 2, width / 2), (-0.17, 0.15), (0, height), sides=HANGING)
    for k in range(modules):
        x = (-width / 2 + k * width / modules + 0.004, -width / 2 + (k + 1) * width / modules - 0.004)
        model.box(body, x, (0.15, 0.17), (0, height), sides=HANGING, front=facade)
    return model.finish()


def pedestal_sink(rng: Rng, decorator: Decorator) -> Furniture:
    """A bathroom sink on a column."""
    model = Modeller('sink')
    ceramic, tap = decorator.draw('ceramic'), decorator.draw('metal')
    half, top = rng.uniform(0.27, 0.36), rng.uniform(0.8, 0.88)
    model.add(ceramic, prism((0, -0.05), (0, top - 0.2), (0.13, 0.12), taper=0.8))
    outer, inner = ((-half, half), (-0.25, 0.25)), ((-half + 0.06, half - 0.06), (-0.13, 0.19))
    model.box(ceramic, *outer, (top - 0.2, top), sides=(*_AROUND, 'bottom'))
    _rim(model, ceramic, outer, inner, top)
    model.add(ceramic, inside_of_box(*inner, (top - 0.16, top), sides=(*_AROUND, 'bottom')))
    model.box(tap, (-0.02, 0.02), (-0.2, -0.16), (top, top + 0.16))
    model.box(tap, (-0.02, 0.02), (-0.16, -0.02), (top + 0.12, top + 0.16), sides=SIDES)
    return model.finish()


def _rim(
    model: Modeller,
    material: int,
    outer: tuple[tuple[float, float], tuple[float, float]],
    inner: tuple[tuple[float, float], tuple[float, float]],
    top: float,
) -> None:
    """The flat ring between two rectangles."""
    for x, y in (
        ((outer[0][0], inner[0][0]), outer[1]),
        ((inner[0][1], outer[0][1]), outer[1]),
        (inner[0], (outer[1][0], inner[1][0])),
        (inner[0], (inner[1][1], outer[1][1])),
    ):
        model.box(material, x, y, (top, top), sides=['top'])


def toilet(rng: Rng, decorator: Decorator) -> Furniture:
    """A toilet: foot, bowl, seat, tank."""
    model = Modeller('toilet')
    ceramic = decorator.draw('ceramic')
    seat = ceramic if rng.uniform() < 0.6 else decorator.one_of('black', 'wood', 'white')
    top, half = rng.uniform(0.4, 0.45), rng.uniform(0.19, 0.23)
    model.add(ceramic, prism((0, 0.08), (0, top - 0.04), (0.68 * half, 0.19), taper=1 / 0.68))
    model.add(seat, prism((0, 0.08), (top - 0.04, top), (half, 0.28), taper=0.97))
    model.box(ceramic, (-half - 0.02, half + 0.02), (-0.37, -0.19), (top - 0.05, top + rng.uniform(0.36, 0.44)))
    model.box(ceramic, (-0.12, 0.12), (-0.33, -0.1), (0, top - 0.05), sides=('left', 'right', 'back'))
    return model.finish()


def bathtub(rng: Rng, decorator: Decorator) -> Furniture:
    """A bathtub along the wall."""
    model = Modeller('bathtub')
    half, depth, top = rng.uniform(0.78, 0.9), rng.uniform(0.36, 0.42), rng.uniform(0.5, 0.6)
    ceramic = decorator.draw('ceramic')
    skirt = ceramic if rng.uniform() < 0.6 else decorator.draw('wall tiles')
    outer = (-half, half), (-depth, depth)
    inner = (-half + 0.1, half - 0.1), (-depth + 0.08, depth - 0.08)
    model.box(skirt, *outer, (0, top), sides=_AROUND)
    _rim(model, ceramic, outer, inner, top)
    model.add(ceramic, inside_of_box(*inner, (top - 0.4, top), sides=(*_AROUND, 'bottom')))
    return model.finish()


def shower_curtain(rng: Rng, decorator: Decorator, *, width: float) -> Furniture:
    """A plastic curtain in folds beside a bathtub."""
    model = Modeller('shower curtain')
    sheet = folded_sheet((-width / 2, width / 2), (-0.03, 0.03), (0, rng.uniform(1.6, 1.8)), folds=round(width / 0.12))
    model.add(decorator.draw('vinyl'), sheet)
    return model.finish()
