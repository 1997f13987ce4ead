"""Official loading of pictures: where pixels go, transparency, orientation, and what is refused."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from pano3d.apis.official_images import (
    MUST3R_SHORT_SIDES,
    load_dust3r_images,
    load_must3r_images,
    load_pi3_images,
    load_vggt_images,
)

LOADERS = {
    'dust3r-512': load_dust3r_images,
    'dust3r-224': partial(load_dust3r_images, size=224),
    'must3r-512': load_must3r_images,
    'must3r-224': partial(load_must3r_images, size=224),
    'vggt-crop': load_vggt_images,
    'vggt-pad': partial(load_vggt_images, mode='pad'),
    'vggt-square': partial(load_vggt_images, mode='square'),
    'pi3': load_pi3_images,
}
EDGE = 12
SIZES = [(203, 150), (150, 203), (700, 411), (90, 90)]


@pytest.fixture(params=LOADERS.values(), ids=LOADERS)
def load(request):
    return request.param


def ramp(width: int, height: int) -> np.ndarray:
    """Red grows from left to right, green from top to bottom; blue is full."""
    image = np.full((height, width, 3), 255, np.uint8)
    image[..., 0] = np.linspace(0, 255, width).round()
    image[..., 1] = np.linspace(0, 255, height).round()[:, None]
    return image


@pytest.mark.parametrize(('width', 'height'), SIZES)
def test_pixel_map_says_where_pixels_went(load, width, height):
    [view] = load([ramp(width, height)])
    rows, columns = torch.meshgrid(*(torch.arange(side) for side in view.image.shape[1:]), indexing='ij')
    pixels = torch.stack([columns, rows, torch.ones_like(rows)]).double().flatten(1)
    x, y, _ = torch.linalg.solve(view.pixel_map, pixels).unflatten(1, rows.shape)
    # away from the edges of the picture and of its crop, where resizing has nothing to interpolate
    inside = (x > 4) & (x < width - 5) & (y > 4) & (y < height - 5)
    inside[:EDGE], inside[-EDGE:], inside[:, :EDGE], inside[:, -EDGE:] = (False,) * 4
    assert inside.float().mean() > 0.3
    for found, expected in ((view.image[0], x / (width - 1)), (view.image[1], y / (height - 1))):
        # half a step of the ramp's rounding before resizing, and the same again after it
        assert (found - expected)[inside].abs().max() < 1.5 / 255


@pytest.mark.parametrize(('width', 'height'), SIZES)
def test_sizes_fit_the_patches_and_values_the_contract(load, width, height):
    [view] = load([ramp(width, height)])
    assert view.image.dtype == torch.float32
    assert view.image.min() >= 0
    assert view.image.max() <= 1 + 1e-6
    patch = 16 if load in (load_dust3r_images, load_must3r_images) or view.image.shape[2] in (224, 512) else 14
    assert not any(side % patch for side in view.image.shape[1:])


def test_views_of_vggt_and_pi3_have_one_size():
    items = [ramp(*size) for size in SIZES]
    for load in (
        load_vggt_images,
        partial(load_vggt_images, mode='pad'),
        partial(load_vggt_images, mode='square'),
        load_pi3_images,
    ):
        assert len({view.image.shape for view in load(items)}) == 1


def test_lower_views_are_padded_with_white_in_the_middle():
    wide, high = load_vggt_images([np.zeros((100, 200, 3), np.uint8), np.zeros((200, 200, 3), np.uint8)])
    assert wide.image.shape == high.image.shape == (3, 518, 518)
    rows = wide.image[0, :, 0]
    assert rows.tolist() == [1.0] * 133 + [0.0] * 252 + [1.0] * 133  # 18.5 patches, rounded to even
    assert high.image.max() == 0


def test_only_vggt_shows_white_behind_transparent_pixels():
    red = np.zeros((60, 80, 4), np.uint8)
    red[..., 0] = 255  # and alpha 0
    assert (load_vggt_images([red])[0].image == 1).all()
    [view] = load_dust3r_images([red])
    assert (view.image[0] == 1).all()
    assert (view.image[1:] == 0).all()


def test_photographs_are_turned_upright(load, tmp_path):
    turned = Image.fromarray(np.rot90(ramp(80, 60)).copy())
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    turned.save(tmp_path / 'photo.png', exif=exif)
    [from_file] = load([tmp_path / 'photo.png'])
    [from_array] = load([ramp(80, 60)])
    assert torch.equal(from_file.image, from_array.image)


def test_files_pictures_and_arrays_give_the_same(load, tmp_path):
    array = ramp(80, 60)
    Image.fromarray(array).save(tmp_path / 'a.png')
    views = [
        load([item])[0].image for item in (array, Image.fromarray(array), tmp_path / 'a.png', str(tmp_path / 'a.png'))
    ]
    assert all(torch.equal(view, views[0]) for view in views)


def test_grey_pictures_become_rgb(load):
    [view] = load([Image.new('L', (80, 60), 51)])
    assert view.image.shape[0] == 3
    inner = view.image[:, view.image.shape[1] // 2, view.image.shape[2] // 2]
    assert inner.tolist() == pytest.approx([0.2] * 3)


@pytest.mark.parametrize('size', sorted(MUST3R_SHORT_SIDES))
def test_must3r_keeps_its_own_proportions_whole(size):
    """A picture of a training size comes back as it is."""
    for short in MUST3R_SHORT_SIDES[size]:
        array = np.random.default_rng(0).integers(0, 256, (short, size, 3), dtype=np.uint8)
        [view] = load_must3r_images([array], size=size)
        assert torch.equal(view.image, torch.from_numpy(array).permute(2, 0, 1) / 255)
        assert torch.equal(view.pixel_map, torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize('size', [(1, 900), (900, 1), (1, 1)])
def test_must3r_takes_any_proportions(size):
    [view] = load_must3r_images([np.zeros((size[1], size[0], 3), np.uint8)])
    assert sorted(view.image.shape[1:])[1] == 512


@pytest.mark.parametrize('size', [(1, 5000), (5000, 1), (3, 9), (1, 1)])
def test_pi3_keeps_to_its_limit_at_any_proportions(size):
    [view] = load_pi3_images([np.zeros((size[1], size[0], 3), np.uint8)], pixel_limit=20_000)
    height, width = view.image.shape[1:]
    assert 0 < height * width <= 20_000
    assert height % 14 == width % 14 == 0


def test_unusable_pictures_are_named(load, tmp_path):
    (tmp_path / 'notes.png').write_text('no picture')
    for item, says in (
        (tmp_path / 'absent.png', r'absent\.png does not exist'),
        (tmp_path / 'notes.png', r'notes\.png cannot be read'),
        (np.zeros((4, 4, 3)), r'image 1: expected \(H, W, 3 or 4\) of uint8, got \(4, 4, 3\) of float64'),
        (np.zeros((4, 4), np.uint8), r'image 1: expected \(H, W, 3 or 4\)'),
    ):
        with pytest.raises(ValueError, match=says):
            load([ramp(80, 60), item])
    with pytest.raises(ValueError, match='the list is empty'):
        load([])
    with pytest.raises(ValueError, match='expected a list of pictures, got one ndarray'):
        load(ramp(80, 60))


def test_unknown_settings_are_refused():
    items = [ramp(80, 60)]
    with pytest.raises(ValueError, match=r'`size` must be a multiple of 16, got 500'):
        load_dust3r_images(items, size=500)
    with pytest.raises(ValueError, match=r'`size` must be one of \[224, 512, 768\], got 500'):
        load_must3r_images(items, size=500)
    with pytest.raises(ValueError, match=r"`mode` must be one of .*, got 'stretch'"):
        load_vggt_images(items, mode='stretch')
    with pytest.raises(ValueError, match=r'`size` must be a multiple of 14, got 500'):
        load_vggt_images(items, size=500)
    with pytest.raises(ValueError, match=r'`pixel_limit` must be at least 196, got 100'):
        load_pi3_images(items, pixel_limit=100)
    with pytest.raises(ValueError, match='image 0: 1000x20 is too narrow'):
        load_dust3r_images([ramp(1000, 20)])
