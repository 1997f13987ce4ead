"""The sine encoding against its formula, one number at a time."""

import math

import pytest
import torch

from pano3d.functional.position_encoding import sine_position_encoding


def test_each_entry_follows_the_formula():
    height, width, channels = 3, 4, 8
    found = sine_position_encoding((height, width), channels).view(height, width, channels)
    for row in range(height):
        for column in range(width):
            for half, (cell, cells) in enumerate([(row, height), (column, width)]):
                position = (cell + 1) / (cells + 1e-6) * 2 * math.pi
                for k in range(2):
                    angle = position / 10000 ** (k / 2)
                    start = half * 4 + 2 * k
                    assert found[row, column, start].item() == pytest.approx(math.sin(angle), abs=1e-5)
                    assert found[row, column, start + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)


def test_channels_that_cannot_be_split_are_refused():
    with pytest.raises(ValueError, match='multiple of 4'):
        sine_position_encoding((2, 2), 6)
    assert isinstance(sine_position_encoding((2, 2), 4), torch.Tensor)
