"""Colours: stable, distinct, and never those of void or stuff."""

import cv2
import numpy as np

from pano3d.visualization.palette import STUFF_COLOR, VOID_COLOR, category_colors, instance_colors, palette


def lab(colors: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(colors[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]


def test_first_twenty_colours_are_far_apart():
    colors = lab(np.concatenate([palette()[:20], [VOID_COLOR, STUFF_COLOR]]))
    distance = np.linalg.norm(colors[:, None] - colors[None], axis=-1)
    # A difference of about 2 can just be seen; 25 is a different colour for anyone.
    assert distance[~np.eye(22, dtype=bool)].min() > 25


def test_all_colours_differ():
    assert len(np.unique(palette(), axis=0)) == 256


def test_category_colors():
    colors = category_colors(np.array([[0, 7], [-1, 256]]))
    np.testing.assert_array_equal(colors, [[palette()[0], palette()[7]], [VOID_COLOR, palette()[0]]])
    assert colors.dtype == np.uint8


def test_instance_colors():
    colors = instance_colors(np.array([2, 0, -1, 3]), np.array([1, 0, 0, 257]))
    np.testing.assert_array_equal(colors, [palette()[0], STUFF_COLOR, VOID_COLOR, palette()[0]])
