"""Colour augmentation."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pano3d.registry import TRANSFORMS

from .base import Transform, check_fraction

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


@TRANSFORMS.register_module()
class ColorJitter(Transform):
    """Change brightness, contrast, saturation and hue, in this order.

    A strength a means a factor uniform in [1 - a, 1 + a]: brightness multiplies the colours; contrast their distance
    from the view's mean grey; saturation their distance from their own grey. Hue is turned by an angle uniform in
    [-`hue`, `hue`] full turns.

    Args:
        brightness, contrast, saturation: strengths in [0, 1].
        hue: in [0, 0.5].
        per_view: whether each view gets its own draw, or one draw serves all views of the sample.
    """

    def __init__(
        self,
        *,
        brightness: float = 0.5,
        contrast: float = 0.5,
        saturation: float = 0.5,
        hue: float = 0.1,
        per_view: bool = True,
    ) -> None:
        self.brightness = check_fraction('brightness', brightness)
        self.contrast = check_fraction('contrast', contrast)
        self.saturation = check_fraction('saturation', saturation)
        if not 0 <= hue <= 0.5:
            raise ValueError(f'`hue` must be between 0 and 0.5, got {hue}')
        self.hue = hue
        self.per_view = per_view

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        strength = np.array([self.brightness, self.contrast, self.saturation, self.hue])
        count = len(results['color'])
        draws = results['rng'].uniform(-strength, strength, (count if self.per_view else 1, 4))
        draws = np.broadcast_to(draws, (count, 4))
        changed = [
            adjust_color(image, brightness=1 + b, contrast=1 + c, saturation=1 + s, hue=h)
            for image, (b, c, s, h) in zip(results['color'], draws, strict=True)
        ]
        same_size = isinstance(results['color'], np.ndarray)
        return {**results, 'color': np.stack(changed) if same_size else changed}


def adjust_color(
    image: NDArray[np.uint8],
    *,
    brightness: float = 1.0,
    contrast: float = 1.0,
    saturation: float = 1.0,
    hue: float = 0.0,
) -> NDArray[np.uint8]:
    """RGB image (H, W, 3) with factors on brightness, contrast and saturation, and the hue turned by `hue` turns."""
    color = image.astype(np.float32)
    if brightness != 1:
        color = _clip(color * np.float32(brightness))
    if contrast != 1:
        color = _blend(color, (color @ LUMA).mean(), contrast)
    if saturation != 1:
        color = _blend(color, (color @ LUMA)[..., None], saturation)
    if hue != 0:
        hsv = cv2.cvtColor(color / 255, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0] + 360 * hue) % 360
        color = _clip(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255)
    return np.rint(color).astype(np.uint8)


def _blend(color: NDArray[np.float32], grey: NDArray[np.float32] | np.float32, factor: float) -> NDArray[np.float32]:
    return _clip(grey + (color - grey) * np.float32(factor))


def _clip(color: np.ndarray) -> NDArray[np.float32]:
    return np.clip(color, 0, 255)
