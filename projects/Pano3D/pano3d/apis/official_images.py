"""Pictures as the official loaders of the four networks give them to the network.

The package's own pipeline resizes and crops all views to the one size of its config. What is here gives the sizes and
pixels of the official code instead, to repeat its results. All functions take a list of files, PIL images or arrays
(H, W, 3 or 4), uint8, and give RGB in [0, 1]; the backbones normalise. Files are turned upright as their EXIF data
says, also for the networks whose official loader does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import interpolate, pad

ImageItem = str | Path | Image.Image | np.ndarray
Size = tuple[int, int]

CROCO_PATCH = 16
DINO_PATCH = 14
SQUARE_SIZE = 224
MUST3R_SHORT_SIDES = {224: (224,), 512: (384, 336, 288, 256, 160), 768: (576, 512, 432, 384, 240)}
VGGT_MODES = ('crop', 'pad', 'square')


@dataclass(frozen=True)
class OfficialView:
    """One picture, ready for the network.

    Args:
        image: (3, H, W), RGB in [0, 1].
        pixel_map: (3, 3), float64: homogeneous pixels of the upright picture to pixels of `image`, both with (0, 0) at
            the centre of the top-left pixel. `pixel_map @ intrinsics` are the intrinsics of `image`.
    """

    image: Tensor
    pixel_map: Tensor


def load_dust3r_images(items: Sequence[ImageItem], *, size: int = 512, square_ok: bool = False) -> list[OfficialView]:
    """As DUSt3R and MASt3R: resize, then crop around the centre. Views may differ in size.

    Args:
        items: the pictures.
        size: long side after resizing; 224 gives squares of 224 instead.
        square_ok: leave square pictures square; else they lose a quarter of their height.

    Raises:
        ValueError: if a picture cannot be used; the message names it.
    """
    if size < CROCO_PATCH or size % CROCO_PATCH:
        raise ValueError(f'`size` must be a multiple of {CROCO_PATCH}, got {size}')
    views = []
    for index, image in enumerate(_pictures(items)):
        width, height = image.size
        long_side = size if size != SQUARE_SIZE else round(size * (max(width, height) / min(width, height)))
        resample = Image.Resampling.LANCZOS if max(width, height) > long_side else Image.Resampling.BICUBIC
        resized = image.resize(
            [max(1, round(side * long_side / max(width, height))) for side in (width, height)], resample
        )
        if size == SQUARE_SIZE:
            crop = 2 * (min(resized.size) // 2), 2 * (min(resized.size) // 2)
        else:
            crop = resized.width // CROCO_PATCH * CROCO_PATCH, resized.height // CROCO_PATCH * CROCO_PATCH
            if not square_ok and resized.width == resized.height:
                crop = (crop[0], crop[0] * 3 // 4 // CROCO_PATCH * CROCO_PATCH)
        if not all(crop):
            raise ValueError(f'{_name(items, index)}: {width}x{height} is too narrow; crop it first')
        left, top = (side // 2 - kept // 2 for side, kept in zip(resized.size, crop, strict=True))
        cropped = resized.crop((left, top, left + crop[0], top + crop[1]))
        views.append(_view(_tensor(cropped), image.size, resized.size, (-left, -top)))
    return views


def load_must3r_images(items: Sequence[ImageItem], *, size: int = 512) -> list[OfficialView]:
    """As MUSt3R's demo: crop to the nearest of its training proportions, then resize. Views may differ in size.

    The nearest is that with the least difference of long over short side; squares become landscape.

    Args:
        items: the pictures.
        size: long side, 224 (squares), 512 or 768.

    Raises:
        ValueError: on another size, or if a picture cannot be used; the message names it.
    """
    if size not in MUST3R_SHORT_SIDES:
        raise ValueError(f'`size` must be one of {sorted(MUST3R_SHORT_SIDES)}, got {size}')
    views = []
    for image in _pictures(items):
        width, height = image.size
        ratio = max(width, height) / min(width, height)
        short = min(MUST3R_SHORT_SIDES[size], key=lambda side: abs(size / side - ratio))
        target = (size, short) if width >= height else (short, size)
        crop_width = max(1, min(width, height * target[0] // target[1]))
        crop_height = max(1, min(height, width * target[1] // target[0]))
        left, top = (width - crop_width) // 2, (height - crop_height) // 2
        cropped = _tensor(image.crop((left, top, left + crop_width, top + crop_height)))
        resized = interpolate(
            cropped[None], (target[1], target[0]), mode='bilinear', align_corners=False, antialias=True
        )[0]
        offset = (-left * target[0] / crop_width, -top * target[1] / crop_height)
        views.append(_view(resized, (crop_width, crop_height), target, offset))
    return views


def load_vggt_images(items: Sequence[ImageItem], *, mode: str = 'crop', size: int = 518) -> list[OfficialView]:
    """As VGGT: all views in one size, transparent pixels white.

    Args:
        items: the pictures.
        mode: 'crop' makes the width `size` and cuts what is higher than that, several heights are padded with white;
            'pad' makes the long side `size` and pads to a square with white; 'square' pads to a square with black
            before resizing.
        size: a multiple of 14.

    Raises:
        ValueError: on another mode or size, or if a picture cannot be used; the message names it.
    """
    if mode not in VGGT_MODES:
        raise ValueError(f'`mode` must be one of {list(VGGT_MODES)}, got {mode!r}')
    if size < DINO_PATCH or size % DINO_PATCH:
        raise ValueError(f'`size` must be a multiple of {DINO_PATCH}, got {size}')
    pictures = _pictures(items, background='white')
    if mode == 'square':
        return [_vggt_square(image, size) for image in pictures]
    views = [_vggt_resized(image, size, fit_width=mode == 'crop') for image in pictures]
    if mode == 'pad':
        return [_padded(view, (size, size)) for view in views]
    height, width = (max(view.image.shape[axis] for view in views) for axis in (1, 2))
    return [_padded(view, (height, width)) for view in views]


def _vggt_square(image: Image.Image, size: int) -> OfficialView:
    side = max(image.size)
    left, top = (side - image.width) // 2, (side - image.height) // 2
    square = Image.new('RGB', (side, side))
    square.paste(image, (left, top))
    resized = square.resize((size, size), Image.Resampling.BICUBIC)
    return _view(_tensor(resized), (side, side), (size, size), (left * size / side, top * size / side))


def _vggt_resized(image: Image.Image, size: int, *, fit_width: bool) -> OfficialView:
    """The width, or the long side, becomes `size`; rows beyond `size` are cut around the centre."""
    fitted = image.width if fit_width else max(image.size)
    width, height = (
        size if side == fitted else max(1, round(side * (size / fitted) / DINO_PATCH)) * DINO_PATCH
        for side in image.size
    )
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    top = max(0, (height - size) // 2)
    return _view(_tensor(resized)[:, top : top + size], image.size, resized.size, (0, -top))


def _padded(view: OfficialView, size: Size) -> OfficialView:
    """Centred on white of size (H, W)."""
    height, width = view.image.shape[1:]
    left, top = (size[1] - width) // 2, (size[0] - height) // 2
    around = (left, size[1] - width - left, top, size[0] - height - top)
    pixel_map = view.pixel_map.clone()
    pixel_map[:2, 2] += torch.tensor([left, top])
    return OfficialView(pad(view.image, around, value=1.0), pixel_map)


def load_pi3_images(items: Sequence[ImageItem], *, pixel_limit: int = 255_000) -> list[OfficialView]:
    """As Pi3 and Pi3X: all views are stretched to one size, that of the first one scaled to the limit.

    Args:
        items: the pictures.
        pixel_limit: largest area in pixels; smaller pictures are enlarged to it.

    Raises:
        ValueError: on a limit below one patch, or if a picture cannot be used; the message names it.
    """
    if pixel_limit < DINO_PATCH**2:
        raise ValueError(f'`pixel_limit` must be at least {DINO_PATCH**2}, got {pixel_limit}')
    pictures = _pictures(items)
    target = _pi3_size(pictures[0].size, pixel_limit)
    return [
        _view(_tensor(image.resize(target, Image.Resampling.LANCZOS)), image.size, target, (0, 0)) for image in pictures
    ]


def _pi3_size(size: Size, pixel_limit: int) -> Size:
    """Whole patches as near to the proportions as they come while the area fits."""
    scale = math.sqrt(pixel_limit / (size[0] * size[1]))
    width, height = (side * scale for side in size)
    columns, rows = (max(1, round(side / DINO_PATCH)) for side in (width, height))
    while columns * rows * DINO_PATCH**2 > pixel_limit:
        if rows == 1 or (columns > 1 and columns / rows > width / height):
            columns -= 1
        else:
            rows -= 1
    return columns * DINO_PATCH, rows * DINO_PATCH


def _view(image: Tensor, before: Size, after: Size, offset: tuple[float, float]) -> OfficialView:
    """`before` was resized to `after`, both (width, height), then moved right and down by `offset` pixels."""
    pixel_map = torch.eye(3, dtype=torch.float64)
    for axis in range(2):
        scale = after[axis] / before[axis]
        pixel_map[axis, axis] = scale
        pixel_map[axis, 2] = (scale - 1) / 2 + offset[axis]  # the centre of a pixel is half a pixel from its corner
    return OfficialView(image, pixel_map)


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def _pictures(items: Sequence[ImageItem], background: str | None = None) -> list[Image.Image]:
    """Upright RGB; transparent pixels keep their colour, or show the background."""
    if isinstance(items, str | Path | Image.Image | np.ndarray):
        raise ValueError(f'expected a list of pictures, got one {type(items).__name__}')
    if not items:
        raise ValueError('no images given: the list is empty')
    pictures = []
    for index, item in enumerate(items):
        image = _open(item, _name(items, index))
        if background is not None and image.has_transparency_data:
            image = image.convert('RGBA')
            image = Image.alpha_composite(Image.new('RGBA', image.size, background), image)
        pictures.append(image.convert('RGB'))
    return pictures


def _open(item: ImageItem, name: str) -> Image.Image:
    if isinstance(item, np.ndarray):
        if item.ndim != 3 or item.shape[2] not in (3, 4) or item.dtype != np.uint8 or not item.size:
            raise ValueError(f'{name}: expected (H, W, 3 or 4) of uint8, got {item.shape} of {item.dtype}')
        return Image.fromarray(item)
    try:
        if isinstance(item, Image.Image):
            return ImageOps.exif_transpose(item)
        with Image.open(item) as image:
            return ImageOps.exif_transpose(image)
    except FileNotFoundError as error:
        raise ValueError(f'{name} does not exist') from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f'{name} cannot be read ({error}); remove it or save it again') from error


def _name(items: Sequence[ImageItem], index: int) -> str:
    return f'image {items[index]}' if isinstance(items[index], str | Path) else f'image {index}'
