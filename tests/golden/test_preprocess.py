"""The official loaders: sizes for many pictures, and pixels of a few. All cases are read from the files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pano3d.apis.official_images import (
    OfficialView,
    load_dust3r_images,
    load_must3r_images,
    load_pi3_images,
    load_vggt_images,
)

DATA = Path(__file__).parent.parent / 'data'
STEP = 8
# a value of 8 bits is 1/255 = 4e-3 apart from the next one
CLOSE = {'rtol': 0, 'atol': 1e-5}

Loader = Callable[[list], list[OfficialView]]

# what a key of preprocess.json says -> how to load
SETTINGS: dict[str, tuple[str, Callable[..., Loader]]] = {
    'dust3r': (
        r'size=(\d+),square_ok=(True|False)',
        lambda size, square_ok: lambda items: load_dust3r_images(items, size=int(size), square_ok=square_ok == 'True'),
    ),
    'must3r': (r'size=(\d+)', lambda size: lambda items: load_must3r_images(items, size=int(size))),
    'vggt': (r'mode=(\w+)', lambda mode: lambda items: load_vggt_images(items, mode=mode)),
    'pi3': (r'PIXEL_LIMIT=(\d+)', lambda limit: lambda items: load_pi3_images(items, pixel_limit=int(limit))),
}


def _folders(config: pytest.Config) -> dict[tuple[str, str], Path]:
    root = config.getoption('--golden-root')
    roots = {'shipped': DATA} | ({} if root is None else {'given': root.resolve()})
    return {(name, which): folder / name for name in SETTINGS for which, folder in roots.items()}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cases = [
        pytest.param(name, folder, id=f'{name}-{which}')
        for (name, which), folder in _folders(metafunc.config).items()
        if (folder / metafunc.function.file).is_file()
    ]
    metafunc.parametrize(('name', 'folder'), cases)


def reads(file: str) -> Callable:
    """Run the test for each backbone and folder that has this file."""

    def mark(function: Callable) -> Callable:
        function.file = file
        return function

    return mark


@reads('preprocess.json')
def test_sizes_equal_official(name: str, folder: Path) -> None:
    pattern, make = SETTINGS[name]
    loaders: dict[str, Loader] = {}
    compared = 0
    for key, entries in json.loads((folder / 'preprocess.json').read_text()).items():
        if key == 'note':
            continue
        match = re.match(pattern, key)
        if match:
            loaders[match[1]] = make(*match.groups())
        if 'together' in key:  # without a setting of its own it goes with the only one there is
            if not (folder / 'preprocess.safetensors').is_file():
                continue
            load = loaders[match[1]] if match else next(iter(loaders.values()))
            views = load(pictures(load_file(folder / 'preprocess.safetensors')))
            assert list(torch.stack([view.image for view in views]).shape) == entries, key
            compared += 1
            continue
        assert match, f'{key} says nothing that is known'
        for entry in entries:
            width, height = entry['input_wh']
            [view] = loaders[match[1]]([np.zeros((height, width, 3), np.uint8)])
            assert list(view.image.shape[1:]) == entry['output_hw'], (key, entry)
            if 'crop_hw' in entry:
                scales = view.pixel_map.diagonal()[[1, 0]]
                cropped = torch.tensor(entry['output_hw']) / scales
                torch.testing.assert_close(cropped, torch.tensor(entry['crop_hw'], dtype=torch.float64))
            compared += 1
    assert compared


def pictures(tensors: dict[str, torch.Tensor]) -> list[np.ndarray]:
    names = [f'in/image{index}_uint8_hwc' for index in range(len(tensors))]
    return [tensors[name].numpy() for name in names if name in tensors]


@reads('preprocess.safetensors')
def test_pixels_equal_official(name: str, folder: Path) -> None:
    tensors = load_file(folder / 'preprocess.safetensors')
    items = pictures(tensors)
    expected = {key.removeprefix('out/'): value for key, value in tensors.items() if key.startswith('out/')}
    assert expected
    assert len(items) + len(expected) == len(tensors)
    for key, value in expected.items():
        if name == 'dust3r':
            size, index = map(int, re.fullmatch(r'size(\d+)/image(\d+)_every8', key).groups())
            ours = 2 * sampled(load_dust3r_images(items, size=size)[index : index + 1]) - 1
        elif key == 'both_together_every8':
            ours = sampled(load_pi3_images(items))
        elif match := re.fullmatch(r'(crop|pad)/both_together_every8', key):
            ours = sampled(load_vggt_images(items, mode=match[1]))
        else:
            size, what = re.fullmatch(r'square(\d+)_(every8|coords)', key).groups()
            views = load_vggt_images(items, mode='square', size=int(size))
            ours = sampled(views) if what == 'every8' else coordinates(views, items)
        torch.testing.assert_close(ours, value, **CLOSE, msg=lambda text, key=key: f'{key}: {text}')


def sampled(views: list[OfficialView]) -> torch.Tensor:
    return torch.stack([view.image[:, ::STEP, ::STEP] for view in views])


def coordinates(views: list[OfficialView], items: list[np.ndarray]) -> torch.Tensor:
    """Left, top, right and bottom edge of the picture inside the padded one, and its own width and height."""
    rows = []
    for view, item in zip(views, items, strict=True):
        height, width = item.shape[:2]
        corners = torch.tensor([[0.0, 0, 1], [width, height, 1]], dtype=torch.float64)
        edges = (corners - torch.tensor([0.5, 0.5, 0])) @ view.pixel_map.T + torch.tensor([0.5, 0.5, 0])
        rows.append([*edges[:, :2].flatten().tolist(), width, height])
    return torch.tensor(rows)
