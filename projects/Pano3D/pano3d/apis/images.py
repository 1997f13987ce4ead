"""Reading the pictures people have: folders, phone photographs, arrays."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pano3d.visualization import spread_views

IMAGE_ENDINGS = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.tif', '.tiff')

ImageSource = str | Path | Sequence[str | Path | np.ndarray]


def list_images(folder: str | Path) -> list[Path]:
    """The images of a folder in natural order ('view2' before 'view10'); hidden files and subfolders are left out.

    Raises:
        ValueError: if the folder does not exist or holds no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = 'is a file, expected a folder' if folder.exists() else 'does not exist'
        raise ValueError(f'image folder {folder} {what}')
    files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith('.')]
    images = [path for path in files if path.suffix.lower() in IMAGE_ENDINGS]
    if not images:
        raise ValueError(f'{folder}: no images among its {len(files)} files; looked for {", ".join(IMAGE_ENDINGS)}')
    return sorted(images, key=lambda path: _natural(path.name))


def read_image(path: str | Path) -> np.ndarray:
    """RGB (H, W, 3), uint8, upright: turned as its EXIF orientation says.

    Raises:
        ValueError: if the file is missing or no readable image.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert('RGB'))
    except FileNotFoundError as error:
        raise ValueError(f'image {path} does not exist') from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f'image {path} cannot be read ({error}); remove it or save it again') from error


def load_views(source: ImageSource, *, max_views: int | None = None) -> tuple[list[np.ndarray], list[str]]:
    """Images (H, W, 3), uint8 RGB, and a name for each: the stem of the file, or the position of an array.

    Args:
        source: a folder, a list of files or a list of arrays (H, W, 3), uint8 RGB.
        max_views: if there are more, this many are taken, evenly spread, first and last included.

    Raises:
        ValueError: if there is nothing to read, or an image cannot be used; the message names it.
    """
    items = list_images(source) if isinstance(source, str | Path) else list(source)
    if not items:
        raise ValueError('no images given: the list is empty')
    kept = spread_views(len(items), len(items) if max_views is None else max_views)
    images, names = [], []
    for position in kept:
        item = items[position]
        if isinstance(item, np.ndarray):
            if item.ndim != 3 or item.shape[2] != 3 or item.dtype != np.uint8:
                raise ValueError(f'image {position}: expected RGB (H, W, 3) of uint8, got {item.shape} of {item.dtype}')
            images.append(item)
            names.append(str(position))
        else:
            images.append(read_image(item))
            names.append(Path(item).stem)
    return images, names


def _natural(name: str) -> list[tuple[int, int, str]]:
    parts = re.split(r'(\d+)', name.lower())
    return [(0, int(part), '') if part.isdecimal() else (1, 0, part) for part in parts]
