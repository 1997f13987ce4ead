"""Reading the images of the chosen frames."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from mmengine.fileio import get
from numpy.typing import NDArray

from pano3d.datasets.scene_record import RECONVERT, FrameRecord
from pano3d.registry import TRANSFORMS

from .base import Transform

# The intrinsics belong to the pixels as stored, whatever an EXIF tag says.
# IMREAD_IGNORE_ORIENTATION goes with each of these.
REDUCED_FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
JPEG = ('.jpg', '.jpeg')


@TRANSFORMS.register_module()
class LoadViews(Transform):
    """Read colour, depth and instance map of each view, in their own sizes.

    Args:
        min_size: (height, width). A colour JPEG of at least twice, four or eight times this size is decoded at a half,
            a quarter or an eighth of its own, which takes a fraction of the time; its intrinsics follow. Give the size
            that `ResizeCrop` makes. None reads all pixels.

    Raises:
        ValueError: if no views were chosen before.
        FileNotFoundError, ValueError: if an image is missing, damaged, or not of the size that its intrinsics are
            for; the message names scene, frame and file.
    """

    def __init__(self, *, min_size: tuple[int, int] | None = None) -> None:
        if min_size is not None and (len(min_size) != 2 or min(min_size) < 1):
            raise ValueError(f'`min_size` must be (height, width), got {min_size}')
        self.min_size = min_size

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        if 'views' not in results:
            raise ValueError('LoadViews needs `views`: put RandomStrideViews or LinspaceViews before it')
        views, scene, backend_args = results['views'], results['scene'], results['backend_args']
        color, depth, instance = [], [], []
        reductions = [_reduction(view, self.min_size) for view in views]
        for view, reduction in zip(views, reductions, strict=True):
            try:
                color.append(_read_color(view, reduction, backend_args))
                depth.append(read_depth(view, scene.depth_scale, backend_args))
                instance.append(_read_instance(view, backend_args))
            except (OSError, ValueError, cv2.error) as error:
                kind = FileNotFoundError if isinstance(error, OSError) else ValueError
                raise kind(f'scene {scene.scene_id}, frame {view.id}: {error}; {RECONVERT}') from error
        return {
            **results,
            'color': color,
            'depth': depth,
            'instance': instance,
            'color_intrinsics': np.stack(
                [_reduced(view.color_intrinsics, by) for view, by in zip(views, reductions, strict=True)]
            ),
            'instance_intrinsics': np.stack([view.color_intrinsics for view in views]),
            'depth_intrinsics': np.stack([view.depth_intrinsics for view in views]),
            'camera_to_world': np.stack([view.camera_to_world for view in views]),
        }


def _reduction(view: FrameRecord, min_size: tuple[int, int] | None) -> int:
    """The largest divisor at which the colour image covers (height, width)."""
    if min_size is None or not view.color.lower().endswith(JPEG):  # others are decoded in full and shrunk badly
        return 1
    width, height = view.color_size
    return max(by for by in REDUCED_FLAGS if by == 1 or min(width // by - min_size[1], height // by - min_size[0]) >= 0)


def _reduced(intrinsics: NDArray[np.float64], by: int) -> NDArray[np.float64]:
    """Intrinsics of an image whose pixels are squares of `by` x `by` pixels; centres are at whole numbers."""
    shift = (1 - by) / (2 * by)
    return np.array([[1 / by, 0, shift], [0, 1 / by, shift], [0, 0, 1]]) @ intrinsics


def _read_color(view: FrameRecord, reduction: int, backend_args: dict[str, Any] | None) -> np.ndarray:
    width, height = view.color_size
    size = -(-width // reduction), -(-height // reduction)
    image = _decode(view.color, REDUCED_FLAGS[reduction] | cv2.IMREAD_IGNORE_ORIENTATION, size, backend_args)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_depth(view: FrameRecord, scale: float, backend_args: dict[str, Any] | None) -> NDArray[np.float32]:
    """Depth of a view (h, w) in metres, 0 = unknown; `scale` is metres per unit of the image."""
    if view.depth is None:
        return np.zeros(view.depth_size[::-1], dtype=np.float32)
    image = _decode(view.depth, cv2.IMREAD_UNCHANGED, view.depth_size, backend_args)
    if image.ndim != 2 or image.dtype != np.uint16:
        raise ValueError(f'{view.depth}: expected 16-bit grey values, found {image.dtype} of shape {image.shape}')
    return image * np.float32(scale)


def _read_instance(view: FrameRecord, backend_args: dict[str, Any] | None) -> NDArray[np.unsignedinteger]:
    if view.instance is None:
        width, height = view.color_size
        return np.zeros((height, width), dtype=np.uint8)
    image = _decode(view.instance, cv2.IMREAD_UNCHANGED, view.color_size, backend_args)
    if image.ndim != 2 or image.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f'{view.instance}: expected 8- or 16-bit grey values, found {image.dtype} of shape {image.shape}'
        )
    return image


def _decode(path: str, flags: int, size: tuple[int, int], backend_args: dict[str, Any] | None) -> np.ndarray:
    data = get(path, backend_args=backend_args)
    image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags) if data else None
    if image is None:
        raise ValueError(f'{path}: not a readable image ({len(data or b"")} bytes)')
    if image.shape[1::-1] != size:
        raise ValueError(f'{path}: expected (width, height) {size}, found {image.shape[1::-1]}')
    return image
