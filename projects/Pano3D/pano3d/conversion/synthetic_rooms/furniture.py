"""Free-standing and storage furniture, built of boxes; every call makes another specimen."""

from __future__ import annotations

import numpy as np

from .appearance import Decorator
from .modelling import AGAINST_WALL, HANGING, STANDING, Furniture, Modeller
from .shapes import SIDES, box, lean_back, prism

Rng = np.random.Generator


def _four_legs(model: Modeller, material: int, width: float, depth: float, height: float, thickness: float) -> None:
    for x in (-width / 2, width / 2 - thickness):
        for y in (-depth / 2, depth / 2 - thickness):
            model.box(
                material, (x, x + thickness), (y, y + thickness), (0, height), sides=('front', 'back', 'left', 'right')
            )


def chair(rng: Rng, decorator: Decorator) -> Furniture:
    """A dining chair: seat, back (a panel or boards), four legs."""
    model = Modeller('chair')
    width, depth, seat = rng.uniform(0.42, 0.52), rng.uniform(0.42, 0.5), rng.uniform(0.42, 0.48)
    top, frame = rng.uniform(0.85, 1.0), decorator.one_of('wood', 'wood', 'lacquer', 'metal')
    cushion = decorator.one_of('fabric', 'leather') if rng.uniform() < 0.5 else frame
    _four_legs(model, frame, width, depth, seat - 0.05, rng.uniform(0.035, 0.055))
    model.box(cushion, (-width / 2, width / 2), (-depth / 2, depth / 2), (seat - 0.05, seat), sides=SIDES)
    if rng.uniform() < 0.5:
        boards = [(-width / 2, width / 2, seat + 0.08, top)]
    else:
        third = (top - seat) / 3
        boards = [
            (-width / 2, width / 2, top - 0.8 * third, top),
            (-width / 2, width / 2, top - 2 * third, top - 1.5 * third),
        ]
        boards += [(side, side + 0.04, seat, top) for side in (-width / 2, width / 2 - 0.04)]
    angle = rng.uniform(0.03, 0.15)
    for low_x, high_x, low_z, high_z in boards:
        board = box((low_x, high_x), (-depth / 2, -depth / 2 + 0.035), (low_z, high_z))
        model.add(cushion if len(boards) == 1 else frame, lean_back(board, angle, y=-depth / 2, z=seat))
    return model.finish()


def office_chair(rng: Rng, decorator: Decorator) -> Furniture:
    """A swivel chair: seat and back on a column with a star base."""
    model = Modeller('office chair')
    width, seat, top = rng.uniform(0.48, 0.56), rng.uniform(0.45, 0.52), rng.uniform(0.95, 1.1)
    cushion, stand = decorator.one_of('fabric', 'leather', 'black', 'black'), decorator.one_of('metal', 'black')
    for x, y in ((0.28, 0.03), (0.03, 0.28)):
        model.box(stand, (-x, x), (-y, y), (0.03, 0.1), sides=SIDES)
    model.add(stand, prism((0, 0), (0.1, seat - 0.09), (0.035, 0.035)))
    model.box(cushion, (-width / 2, width / 2), (-0.24, 0.25), (seat - 0.09, seat), sides=SIDES)
    back = box((-width / 2 + 0.02, width / 2 - 0.02), (-0.25, -0.18), (seat + 0.1, top))
    model.add(cushion, lean_back(back, rng.uniform(0.05, 0.15), y=-0.22, z=seat))
    if rng.uniform() < 0.6:
        for x in (-width / 2 - 0.03, width / 2 - 0.02):
            model.box(stand, (x, x + 0.05), (-0.15, 0.15), (seat + 0.17, seat + 0.21), sides=SIDES)
            model.box(stand, (x, x + 0.05), (-0.02, 0.04), (seat - 0.05, seat + 0.17))
    return model.finish()


def _upholstered(rng: Rng, decorator: Decorator, category: str, width: float, seats: int) -> Furniture:
    model = Modeller(category)
    depth, seat, back = rng.uniform(0.78, 0.95), rng.uniform(0.38, 0.46), rng.uniform(0.72, 0.92)
    arm, arm_top = rng.uniform(0.12, 0.22), rng.uniform(0.52, 0.64)
    cover = decorator.one_of('fabric', 'fabric', 'leather')
    cushion = decorator.draw('fabric') if rng.uniform() < 0.25 else cover
    half, rear, front = width / 2, -depth / 2, depth / 2
    model.box(cover, (-half, half), (rear, rear + 0.2), (0.04, back))
    for x in (-half, half - arm):
        model.box(cover, (x, x + arm), (rear + 0.2, front), (0.04, arm_top))
    model.box(cover, (-half + arm, half - arm), (rear + 0.2, front - 0.03), (0.04, seat - 0.14))
    pitch = (width - 2 * arm) / seats
    for k in range(seats):
        place = (-half + arm + k * pitch + 0.008, -half + arm + (k + 1) * pitch - 0.008)
        model.box(cushion, place, (rear + 0.2, front), (seat - 0.14, seat))
        model.box(cushion, place, (rear + 0.2, rear + 0.34), (seat, back - 0.04))
    return model.finish()


def couch(rng: Rng, decorator: Decorator) -> Furniture:
    """A sofa of two or three seats with arms and cushions."""
    seats = int(rng.integers(2, 4))
    return _upholstered(rng, decorator, 'couch', 0.45 + rng.uniform(0.58, 0.72) * seats, seats)


def armchair(rng: Rng, decorator: Decorator) -> Furniture:
    """An upholstered chair with arms."""
    return _upholstered(rng, decorator, 'armchair', rng.uniform(0.75, 0.92), 1)


def dining_table(rng: Rng, decorator: Decorator) -> Furniture:
    """A table: a rectangular top on four legs, or a round one on a column."""
    model = Modeller('table')
    height, top = rng.uniform(0.72, 0.77), decorator.one_of('wood', 'wood', 'lacquer', 'white')
    legs = top if rng.uniform() < 0.6 else decorator.one_of('metal', 'wood', 'black')
    if rng.uniform() < 0.25:
        radius = rng.uniform(0.45, 0.6)
        model.add(legs, prism((0, 0), (0, 0.06), (0.3, 0.3), taper=0.8))
        model.add(legs, prism((0, 0), (0.06, height - 0.04), (0.06, 0.06)))
        model.add(top, prism((0, 0), (height - 0.04, height), (radius, radius)))
    else:
        width, depth = rng.uniform(1.0, 1.9), rng.uniform(0.75, 0.95)
        _four_legs(model, legs, width - 0.06, depth - 0.06, height - 0.05, rng.uniform(0.05, 0.08))
        model.box(top, (-width / 2, width / 2), (-depth / 2, depth / 2), (height - 0.05, height), sides=SIDES)
    return model.finish()


def coffee_table(rng: Rng, decorator: Decorator) -> Furniture:
    """A low table with a shelf below."""
    model = Modeller('coffee table')
    width, depth, height = rng.uniform(0.8, 1.2), rng.uniform(0.5, 0.65), rng.uniform(0.35, 0.5)
    top = decorator.one_of('wood', 'wood', 'lacquer', 'white', 'black')
    _four_legs(model, top, width, depth, height - 0.05, rng.uniform(0.05, 0.07))
    model.box(top, (-width / 2, width / 2), (-depth / 2, depth / 2), (height - 0.05, height), sides=SIDES)
    if rng.uniform() < 0.5:
        inner = (-width / 2 + 0.05, width / 2 - 0.05)
        model.box(top, inner, (-depth / 2 + 0.05, depth / 2 - 0.05), (0.1, 0.13), sides=SIDES)
    return model.finish()


def desk(rng: Rng, decorator: Decorator) -> Furniture:
    """A writing desk: top, a drawer block at one side, a leg plate at the other, a modesty panel."""
    model = Modeller('desk')
    width, depth, height = rng.uniform(1.1, 1.7), rng.uniform(0.6, 0.8), rng.uniform(0.72, 0.77)
    body = decorator.one_of('wood', 'wood', 'lacquer', 'white')
    drawers = decorator.draw('drawers', like=body)
    half, rear, front, side = width / 2, -depth / 2, depth / 2, rng.choice([-1, 1])
    block = (half - 0.42, half) if side > 0 else (-half, -half + 0.42)
    plate = (-half, -half + 0.04) if side > 0 else (half - 0.04, half)
    model.box(body, (-half, half), (rear, front), (height - 0.04, height), sides=SIDES)
    model.box(body, block, (rear + 0.02, front - 0.03), (0.02, height - 0.04), front=drawers)
    model.box(body, plate, (rear + 0.02, front - 0.03), (0, height - 0.04))
    model.box(body, (-half + 0.04, half - 0.04), (rear + 0.04, rear + 0.06), (0.3, height - 0.04), sides=SIDES)
    return model.finish()


def bed(rng: Rng, decorator: Decorator) -> Furniture:
    """A bed, its head at the back: frame, mattress, blanket, headboard, pillows."""
    model = Modeller('bed')
    width, length = rng.choice([0.95, 1.25, 1.6]) + rng.uniform(-0.05, 0.1), rng.uniform(1.95, 2.1)
    frame = decorator.one_of('wood', 'wood', 'lacquer', 'fabric', 'leather')
    sheet, blanket, pillow = decorator.draw('white'), decorator.draw('linen'), decorator.one_of('white', 'linen')
    half, rear, front, top = width / 2, -length / 2, length / 2, rng.uniform(0.45, 0.6)
    model.box(frame, (-half, half), (rear + 0.06, front), (0.08, top - 0.2))
    model.box(sheet, (-half + 0.03, half - 0.03), (rear + 0.06, front - 0.03), (top - 0.2, top), sides=STANDING)
    fold = front - rng.uniform(0.6, 0.75) * length
    model.box(blanket, (-half - 0.02, half + 0.02), (fold, front + 0.01), (top - 0.24, top + 0.03))
    model.box(frame, (-half - 0.02, half + 0.02), (rear, rear + 0.06), (0, rng.uniform(0.8, 1.15)))
    count = 1 if width < 1.15 else 2
    pitch = (width - 0.1) / count
    for k in range(count):
        x = -half + 0.05 + k * pitch
        model.box(pillow, (x + 0.05, x + pitch - 0.05), (rear + 0.1, rear + 0.45), (top, top + 0.13))
    return model.finish()


def bookshelf(rng: Rng, decorator: Decorator) -> Furniture:
    """A bookshelf: sides, back, boards, and rows of books that belong to it."""
    model = Modeller('bookshelf')
    width, depth, height = rng.uniform(0.7, 1.3), rng.uniform(0.28, 0.36), rng.uniform(1.5, 2.1)
    body = decorator.one_of('wood', 'wood', 'white', 'lacquer')
    half, rear, front = width / 2, -depth / 2, depth / 2
    for x in (-half, half - 0.03):
        model.box(body, (x, x + 0.03), (rear, front), (0, height))
    inner = (-half + 0.03, half - 0.03)
    model.box(body, inner, (rear, rear + 0.02), (0.0, height), sides=('front', 'top'))
    boards = int(rng.integers(5, 7))
    pitch = (height - 0.09) / (boards - 1)
    for k in range(boards):
        z = 0.06 + k * pitch
        model.box(body, inner, (rear + 0.02, front), (z, z + 0.03), sides=('front', 'top', 'bottom'))
        if k < boards - 1 and rng.uniform() < 0.85:
            row = rng.uniform(0.45, 1.0) * (inner[1] - inner[0])
            books, x = decorator.draw('books'), inner[0] if rng.uniform() < 0.5 else inner[1] - row
            model.box(
                body,
                (x, x + row),
                (rear + 0.02, front - 0.05),
                (z + 0.03, z + pitch * 0.85),
                sides=('top', 'left', 'right'),
            )
            model.add(books, box((x, x + row), (rear, front - 0.05), (z + 0.03, z + pitch * 0.85), sides=['front']))
    return model.finish()


def _closed_storage(
    rng: Rng, decorator: Decorator, category: str, size: tuple[float, float, float], front: str, modules: int
) -> Furniture:
    model = Modeller(category)
    width, depth, height = size
    facade = decorator.draw(front)
    body = decorator.draw('lacquer', like=facade)
    half, rear, face = width / 2, -depth / 2, depth / 2
    foot = rng.uniform(0.03, 0.08)
    model.box(body, (-half, half), (rear, face - 0.02), (foot, height - 0.03), sides=AGAINST_WALL)
    pitch = width / modules
    for k in range(modules):
        x = (-half + k * pitch + 0.004, -half + (k + 1) * pitch - 0.004)
        model.box(body, x, (face - 0.02, face), (foot, height - 0.035), front=facade)
    model.box(body, (-half, half), (rear, face), (height - 0.03, height), sides=HANGING)
    model.box(body, (-half + 0.03, half - 0.03), (rear, face - 0.06), (0, foot), sides=('front', 'left', 'right'))
    return model.finish()


def low_cabinet(rng: Rng, decorator: Decorator) -> Furniture:
    """A sideboard or chest of drawers."""
    width = rng.uniform(0.8, 1.6)
    size = (width, rng.uniform(0.4, 0.5), rng.uniform(0.6, 1.0))
    front = 'cabinet doors' if rng.uniform() < 0.6 else 'drawers'
    return _closed_storage(rng, decorator, 'cabinet', size, front, max(round(width / 0.6), 1))


def tall_cabinet(rng: Rng, decorator: Decorator) -> Furniture:
    """A tall cupboard with doors."""
    size = (rng.uniform(0.7, 1.1), rng.uniform(0.4, 0.55), rng.uniform(1.5, 2.05))
    return _closed_storage(rng, decorator, 'cabinet', size, 'cabinet doors', 1)


def file_cabinet(rng: Rng, decorator: Decorator) -> Furniture:
    """A narrow cabinet of drawers."""
    size = (rng.uniform(0.42, 0.5), rng.uniform(0.5, 0.6), rng.uniform(0.7, 1.3))
    return _closed_storage(rng, decorator, 'file cabinet', size, 'drawers', 1)


def wardrobe_closet(rng: Rng, decorator: Decorator) -> Furniture:
    """A wardrobe, wider and deeper than a cabinet."""
    size = (rng.uniform(1.2, 1.8), rng.uniform(0.55, 0.65), rng.uniform(1.9, 2.2))
    return _closed_storage(rng, decorator, 'wardrobe closet', size, 'cabinet doors', 2)


def nightstand(rng: Rng, decorator: Decorator) -> Furniture:
    """A bedside table with drawers."""
    size = (rng.uniform(0.4, 0.5), rng.uniform(0.36, 0.42), rng.uniform(0.45, 0.6))
    return _closed_storage(rng, decorator, 'nightstand', size, 'drawers', 1)


def ottoman(rng: Rng, decorator: Decorator) -> Furniture:
    """A padded stool without back."""
    model = Modeller('ottoman')
    cover, radius, height = decorator.one_of('fabric', 'leather'), rng.uniform(0.25, 0.4), rng.uniform(0.36, 0.45)
    if rng.uniform() < 0.5:
        model.add(cover, prism((0, 0), (0.02, height), (radius, radius)))
    else:
        model.box(cover, (-radius * 1.2, radius * 1.2), (-radius, radius), (0.04, height))
    return model.finish()


def bench(rng: Rng, decorator: Decorator) -> Furniture:
    """A bench: a board on two plates."""
    model = Modeller('bench')
    half, depth, height = rng.uniform(0.5, 0.7), rng.uniform(0.34, 0.42), rng.uniform(0.42, 0.48)
    wood = decorator.one_of('wood', 'lacquer')
    model.box(wood, (-half, half), (-depth / 2, depth / 2), (height - 0.06, height), sides=SIDES)
    for x in (-half + 0.05, half - 0.12):
        model.box(wood, (x, x + 0.07), (-depth / 2 + 0.03, depth / 2 - 0.03), (0, height - 0.06))
    return model.finish()


def trash_can(rng: Rng, decorator: Decorator) -> Furniture:
    """A bin, wider at its top."""
    model = Modeller('trash can')
    radius, height = rng.uniform(0.14, 0.19), rng.uniform(0.4, 0.65)
    plastic = decorator.one_of('black', 'metal', 'white', 'lacquer')
    model.add(plastic, prism((0, 0), (0, height), (radius, radius), taper=1.3))
    return model.finish()


def floor_lamp(rng: Rng, decorator: Decorator) -> Furniture:
    """A lamp with a foot, a pole and a shade."""
    model = Modeller('lamp')
    pole, shade, height = decorator.one_of('metal', 'black'), decorator.draw('lampshade'), rng.uniform(1.35, 1.7)
    model.add(pole, prism((0, 0), (0, 0.03), (0.15, 0.15), taper=0.85))
    model.add(pole, prism((0, 0), (0.03, height - 0.3), (0.02, 0.02)))
    model.add(shade, prism((0, 0), (height - 0.3, height), (0.2, 0.2), taper=0.65))
    return model.finish()
