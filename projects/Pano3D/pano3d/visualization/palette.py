"""Colours of classes and instances: a function of the number alone, so they stay the same over views and runs."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

VOID_COLOR = np.array([0, 0, 0], np.uint8)
STUFF_COLOR = np.array([150, 150, 150], np.uint8)
"""In an instance picture: pixels of a known class that belong to no countable object."""

PALETTE_SIZE = 256


@cache
def palette() -> np.ndarray:
    """The colours (256, 3), uint8 RGB, each as far as possible from all before it, from black and from greys.

    Greedy farthest points in CIELAB over a coarse RGB grid, without colours that are nearly black, white or grey.
    Read-only.
    """
    levels = np.linspace(0, 255, 16).astype(np.uint8)
    rgb = np.stack(np.meshgrid(levels, levels, levels, indexing='ij'), axis=-1).reshape(-1, 3)
    lab = cv2.cvtColor(rgb[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    usable = (lab[:, 0] > 35) & (lab[:, 0] < 85) & (chroma > 28) & (chroma < 85)
    rgb, lab = rgb[usable], lab[usable]

    chosen = [int(np.linalg.norm(lab - np.array([55.0, 0.0, -45.0]), axis=1).argmin())]
    distance = np.linalg.norm(lab - lab[chosen[0]], axis=1)
    while len(chosen) < PALETTE_SIZE:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(lab - lab[chosen[-1]], axis=1))
    colors = rgb[chosen]
    colors.setflags(write=False)
    return colors


def category_colors(category: np.ndarray) -> np.ndarray:
    """Colours (..., 3), uint8 RGB, of category indices (...); black where void (-1)."""
    return np.where(category[..., None] < 0, VOID_COLOR, palette()[category % PALETTE_SIZE])


def instance_colors(category: np.ndarray, instance: np.ndarray) -> np.ndarray:
    """Colours (..., 3), uint8 RGB, of instance ids (...); grey for stuff, black where void."""
    colors = np.where(category[..., None] < 0, VOID_COLOR, STUFF_COLOR)
    return np.where(instance[..., None] > 0, palette()[(instance - 1) % PALETTE_SIZE], colors)
