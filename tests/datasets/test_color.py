"""Oracles: hand-computed colours, invariants, and colorsys of the standard library."""

import colorsys

import numpy as np
import pytest

from pano3d.datasets import ColorJitter
from pano3d.datasets.transforms.color import adjust_color


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)


def patch(*rgb):
    return np.full((2, 3, 3), rgb, np.uint8)


def jitter(images, seed=0, **strengths):
    zero = {'brightness': 0, 'contrast': 0, 'saturation': 0, 'hue': 0}
    transform = ColorJitter(**{**zero, **strengths})
    return transform({'color': images, 'rng': np.random.default_rng(seed)})['color']


@pytest.mark.parametrize(
    ('factors', 'before', 'after'),
    [
        ({'brightness': 0.5}, (100, 60, 20), (50, 30, 10)),
        ({'brightness': 1.5}, (100, 60, 200), (150, 90, 255)),
        ({'saturation': 0.0}, (100, 60, 20), (67, 67, 67)),  # 0.299 * 100 + 0.587 * 60 + 0.114 * 20 = 67.4
        ({'saturation': 2.0}, (100, 60, 20), (133, 53, 0)),  # 67.4 + 2 * (32.6, -7.4, -47.4)
        ({'contrast': 0.0}, (100, 60, 20), (67, 67, 67)),  # the mean is that of the grey values
        ({'contrast': 1.7}, (90, 90, 90), (90, 90, 90)),  # which here is the colour itself
        ({'hue': 1 / 3}, (200, 10, 10), (10, 200, 10)),
        ({'hue': -1 / 3}, (200, 10, 10), (10, 10, 200)),
        ({'hue': 0.5}, (200, 10, 10), (10, 200, 200)),
    ],
)
def test_by_hand(factors, before, after):
    np.testing.assert_array_equal(adjust_color(patch(*before), **factors), patch(*after))


def test_contrast_by_hand():
    image = np.stack([patch(40, 40, 40), patch(160, 160, 160)])[:, 0]
    np.testing.assert_array_equal(np.unique(adjust_color(image, contrast=0.5)), [70, 130])  # mean 100
    np.testing.assert_array_equal(np.unique(adjust_color(image, contrast=0.0)), [100])


def test_hue_against_colorsys(image):
    turned = adjust_color(image, hue=0.17)
    for old, new in zip(image.reshape(-1, 3), turned.reshape(-1, 3), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*(old / 255.0))
        expected = np.array(colorsys.hsv_to_rgb((h + 0.17) % 1, s, v)) * 255
        np.testing.assert_allclose(new, expected, atol=0.51)


def test_identity(image):
    images = [image, image[:5]]
    for out, expected in zip(jitter(images), images, strict=True):
        np.testing.assert_array_equal(out, expected)


def test_grey_stays_grey():
    grey = np.random.default_rng(0).integers(0, 256, (9, 9, 1), dtype=np.uint8).repeat(3, 2)
    for seed in range(10):
        (out,) = jitter([grey], seed, brightness=0.5, contrast=0.5, saturation=0.5, hue=0.5)
        assert np.ptp(out, axis=2).max() == 0
    # Without brightness and contrast nothing at all happens to it.
    np.testing.assert_array_equal(jitter([grey], saturation=1, hue=0.5)[0], grey)


@pytest.mark.parametrize('per_view', [True, False])
def test_who_shares_a_draw(image, per_view):
    out = jitter([image] * 4, brightness=0.5, hue=0.2, per_view=per_view)
    assert len({o.tobytes() for o in out}) == (4 if per_view else 1)


@pytest.mark.parametrize(('name', 'low', 'high'), [('brightness', 0.7, 1.3)])
def test_factors_fill_their_range(name, low, high):
    factors = [jitter([patch(100, 100, 100)], seed, **{name: 0.3})[0][0, 0, 0] / 100 for seed in range(400)]
    assert low - 0.01 <= min(factors) < low + 0.02
    assert high - 0.02 < max(factors) <= high + 0.01


def test_layout_and_input_stay(image):
    stacked = np.stack([image, image])
    before = stacked.copy()
    out = jitter(stacked[:, :, ::-1], brightness=0.5, contrast=0.5, saturation=0.5, hue=0.1)
    assert out.shape == stacked.shape
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(stacked, before)


@pytest.mark.parametrize('arguments', [{'brightness': -0.1}, {'contrast': 1.1}, {'saturation': 2}, {'hue': 0.6}])
def test_refuses_nonsense(arguments):
    with pytest.raises(ValueError, match=f'`{next(iter(arguments))}` must be between 0 and'):
        ColorJitter(**arguments)
