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
    color = image.astype(np.float32)  # changed in place from here on
    if brightness != 1:
        color *= np.float32(brightness)
        np.minimum(color, 255, out=color)
    if contrast != 1:
        grey = np.dot(cv2.mean(color)[:3], LUMA)
        color *= np.float32(contrast)
        color += np.float32(grey * (1 - contrast))
        np.clip(color, 0, 255, out=color)
    if saturation != 1:
        color = cv2.transform(color, saturation * np.eye(3, dtype=np.float32) + (1 - saturation) * LUMA)
        np.clip(color, 0, 255, out=color)
    if hue != 0:
        color = _turn_hue(color, 360 * hue)
    return np.rint(color, out=color).astype(np.uint8)


def _turn_hue(color: NDArray[np.float32], degrees: float) -> NDArray[np.float32]:
    hsv = cv2.cvtColor(color / 255, cv2.COLOR_RGB2HSV)
    angle = hsv[..., 0]
    angle += np.float32(degrees)
    angle += np.float32(360) * (angle < 0)
    angle -= np.float32(360) * (angle >= 360)
    turned: NDArray[np.float32] = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    turned *= 255
    return np.clip(turned, 0, 255, out=turned)
