"""Carrying from pixels to vertices, against all distances computed one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pano3d.functional import lifting
from pano3d.functional.lifting import carry_masks, carry_values, pixel_neighbours

VIEWS, HEIGHT, WIDTH, CLASSES, MASKS = 2, 5, 6, 4, 3


def make_pixels(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    size = VIEWS, HEIGHT, WIDTH
    return {
        'points': torch.rand(*size, 3, generator=generator),
        'valid': torch.rand(size, generator=generator) < 0.8,
        'values': torch.rand(VIEWS, CLASSES, HEIGHT, WIDTH, generator=generator),
        'index': torch.randint(-1, MASKS, size, generator=generator),
        'score': torch.rand(MASKS, generator=generator),
        'vertices': torch.rand(40, 3, generator=generator),
    }


def plain_means(pixels: dict[str, Any], values: np.ndarray, neighbours: int = 5) -> np.ndarray:
    """Mean of (pixels, channels) around every vertex, weighted by inverse distance."""
    points = pixels['points'].double().numpy().reshape(-1, 3)
    valid = np.flatnonzero(pixels['valid'].numpy())
    rows = []
    for vertex in pixels['vertices'].double().numpy():
        distance = np.array([np.sqrt(((points[p] - vertex) ** 2).sum()) for p in valid])
        nearest = sorted(range(len(valid)), key=lambda i: distance[i])[:neighbours]
        weight = np.array([1 / distance[i] for i in nearest])
        rows.append((weight[:, None] * values[valid[nearest]]).sum(0) / weight.sum())
    return np.stack(rows)


@pytest.mark.parametrize('at_once', [7, 16384])
def test_values_equal_means_over_all_distances(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(lifting, 'VERTICES_AT_ONCE', at_once)
    pixels = make_pixels(0)
    neighbours = pixel_neighbours(pixels['points'], pixels['valid'], pixels['vertices'])
    carried = carry_values(pixels['values'].double(), neighbours)
    expected = plain_means(pixels, pixels['values'].double().permute(0, 2, 3, 1).reshape(-1, CLASSES).numpy())
    np.testing.assert_allclose(carried.numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize('at_once', [7, 16384])
def test_masks_equal_the_largest_of_carried_scores(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(lifting, 'VERTICES_AT_ONCE', at_once)
    pixels = make_pixels(1)
    neighbours = pixel_neighbours(pixels['points'], pixels['valid'], pixels['vertices'], num_neighbours=3)
    masks = pixels['index'].reshape(-1, 1).numpy() == np.arange(MASKS)
    expected = plain_means(pixels, masks * pixels['score'].double().numpy(), neighbours=3)
    claimed = plain_means(pixels, masks.any(1, keepdims=True), neighbours=3)[:, 0]
    winner = carry_masks(pixels['index'], pixels['score'], neighbours).numpy()
    np.testing.assert_array_equal(winner, np.where(claimed >= 0.5, expected.argmax(1), -1))
    assert set(winner.tolist()) == {-1, 0, 1, 2}


def test_a_pixel_on_the_vertex_decides() -> None:
    pixels = make_pixels(2)
    valid = pixels['valid'].flatten()
    vertices = pixels['points'].reshape(-1, 3)[valid]
    neighbours = pixel_neighbours(pixels['points'], pixels['valid'], vertices)
    labels = pixels['values'].argmax(1)
    one_hot = torch.nn.functional.one_hot(labels, CLASSES).movedim(-1, 1).float()
    assert torch.equal(carry_values(one_hot, neighbours).argmax(1), labels.flatten()[valid])
    held = pixels['index'].flatten()[valid]
    assert torch.equal(carry_masks(pixels['index'], pixels['score'], neighbours), held)


def test_views_may_be_permuted() -> None:
    pixels = make_pixels(3)
    order = torch.tensor([1, 0])
    carried = [
        carry_values(
            pixels['values'][views],
            pixel_neighbours(pixels['points'][views], pixels['valid'][views], pixels['vertices']),
        )
        for views in (slice(None), order)
    ]
    torch.testing.assert_close(*carried, rtol=0, atol=1e-7)


def test_masks_and_views_may_be_permuted() -> None:
    pixels = make_pixels(6)
    neighbours = pixel_neighbours(pixels['points'], pixels['valid'], pixels['vertices'])
    expected = carry_masks(pixels['index'], pixels['score'], neighbours)
    order, views = torch.tensor([2, 0, 1]), torch.tensor([1, 0])
    renamed = torch.cat([order.argsort(), torch.tensor([-1])])[pixels['index']]  # mask k is number argsort[k] now
    turned = pixel_neighbours(pixels['points'][views], pixels['valid'][views], pixels['vertices'])
    found = carry_masks(renamed[views], pixels['score'][order], turned)
    assert torch.equal(torch.where(found < 0, -1, order[found]), expected)


def test_fewer_pixels_than_neighbours_are_all_neighbours() -> None:
    pixels = make_pixels(4)
    valid = torch.zeros_like(pixels['valid'])
    valid[1, 2, 3:5] = True
    neighbours = pixel_neighbours(pixels['points'], valid, pixels['vertices'])
    assert neighbours.pixel.sort(1).values.eq(torch.tensor([45, 46])).all()  # 30 + 2 * 6 + 3
    torch.testing.assert_close(neighbours.weight.sum(1), torch.ones(40).double())


def test_without_masks_nobody_wins() -> None:
    pixels = make_pixels(5)
    neighbours = pixel_neighbours(pixels['points'], pixels['valid'], pixels['vertices'])
    assert carry_masks(torch.full_like(pixels['index'], -1), torch.zeros(0), neighbours).eq(-1).all()


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'valid': torch.zeros(VIEWS, HEIGHT, WIDTH, dtype=torch.bool)}, 'none of the 60 pixels is valid'),
        ({'valid': torch.ones(VIEWS, HEIGHT, 7, dtype=torch.bool)}, r'got \(2, 5, 6, 3\), \(2, 5, 7\) and \(40, 3\)'),
        ({'points': torch.full((VIEWS, HEIGHT, WIDTH, 3), torch.nan)}, '`points` must be finite where valid'),
        ({'vertices': torch.full((4, 3), torch.inf)}, '`vertices` must be finite where valid; 4 of 4 are not'),
    ],
)
def test_refuses(change: dict[str, torch.Tensor], message: str) -> None:
    pixels = {**make_pixels(0), **change}
    with pytest.raises(ValueError, match=message):
        pixel_neighbours(pixels['points'], pixels['valid'], pixels['vertices'])
