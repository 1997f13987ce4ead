"""Oracles: the definitions written as loops over pixels, and surfaces whose error is known."""

import itertools

import numpy as np
import pytest
import torch

from pano3d.functional.surface_error import gradient_error, normal_error

SHAPE = (2, 9, 11)


def random_maps(*tail, seed=0):
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randn(*SHAPE, *tail, generator=generator, dtype=torch.float64)
    target = torch.randn(*SHAPE, *tail, generator=generator, dtype=torch.float64)
    valid = torch.rand(SHAPE, generator=generator) > 0.2
    return prediction, target, valid


def slow_gradient_error(prediction, target, valid, scales):
    means = []
    for step in [2**k for k in range(scales)]:
        error, known = (prediction - target)[:, ::step, ::step], valid[:, ::step, ::step]
        total = 0.0
        for n, row, column in np.ndindex(*known.shape):
            for other in ((row + 1, column), (row, column + 1)):
                if (
                    other[0] < known.shape[1]
                    and other[1] < known.shape[2]
                    and known[n, row, column]
                    and known[(n, *other)]
                ):
                    total += min(abs(error[(n, *other)] - error[n, row, column]), 100.0)
        means.append(total / max(known.sum(), 1))
    return sum(means) / scales


def slow_normal_error(prediction, target, valid, scales):
    means = []
    for step in [2**k for k in range(scales)]:
        predicted, expected, known = prediction[:, ::step, ::step], target[:, ::step, ::step], valid[:, ::step, ::step]
        errors = []
        for n, row, column in np.ndindex(*known.shape):
            around = [(row - 1, column), (row, column - 1), (row + 1, column), (row, column + 1)]
            for first, second in itertools.pairwise([*around, around[0]]):
                places = [(row, column), first, second]
                if all(0 <= r < known.shape[1] and 0 <= c < known.shape[2] and known[n, r, c] for r, c in places):
                    normals = []
                    for points in (predicted, expected):
                        edges = [points[(n, *place)] - points[n, row, column] for place in (first, second)]
                        normal = np.cross(*edges)
                        normals.append(normal / np.linalg.norm(normal))
                    errors.append(1 - normals[0] @ normals[1])
        means.append(np.mean(errors))
    return sum(means) / scales


def test_gradient_error_equals_its_definition():
    prediction, target, valid = random_maps()
    prediction[0, 3, 4] += 500  # beyond the clamp
    expected = slow_gradient_error(prediction.numpy(), target.numpy(), valid.numpy(), scales=3)
    assert gradient_error(prediction, target, valid, scales=3).item() == pytest.approx(expected, rel=1e-9)


def test_normal_error_equals_its_definition():
    prediction, target, valid = random_maps(3)
    expected = slow_normal_error(prediction.numpy(), target.numpy(), valid.numpy(), scales=2)
    assert normal_error(prediction, target, valid, scales=2).item() == pytest.approx(expected, rel=1e-9)


def test_shifts_have_no_gradient_error_and_ramps_their_slope():
    target, valid = torch.zeros(1, 8, 8), torch.ones(1, 8, 8, dtype=torch.bool)
    assert gradient_error(target + 3, target, valid, scales=3).item() == 0
    ramp = 0.5 * torch.arange(8.0).expand(1, 8, 8)
    # 7 of 8 columns have a right neighbour
    assert gradient_error(ramp, target, valid, scales=1).item() == pytest.approx(0.5 * 7 / 8)


def test_normal_error_of_a_tilted_plane_is_one_minus_the_cosine():
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing='ij')
    flat = torch.stack([x, y, torch.ones_like(x)], dim=-1)[None]
    tilted = torch.stack([x, y, x], dim=-1)[None]  # 45 degrees
    valid = torch.ones(1, 6, 6, dtype=torch.bool)
    assert normal_error(tilted, flat, valid, scales=1).item() == pytest.approx(1 - 0.5**0.5, rel=1e-5)


@pytest.mark.parametrize(('error', 'tail'), [(gradient_error, ()), (normal_error, (3,))])
def test_invalid_pixels_reach_neither_value_nor_gradient(error, tail):
    prediction, target, valid = random_maps(*tail)
    expected = error(prediction, target, valid, scales=2)
    spoiled_target, spoiled = target.clone(), prediction.clone()
    spoiled_target[~valid], spoiled[~valid] = float('nan'), float('inf')
    spoiled.requires_grad_()
    found = error(spoiled, spoiled_target, valid, scales=2)
    found.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    assert torch.isfinite(spoiled.grad).all()
    assert (spoiled.grad[~valid] == 0).all()


@pytest.mark.parametrize(('error', 'tail'), [(gradient_error, ()), (normal_error, (3,))])
def test_nothing_valid_gives_zero(error, tail):
    prediction, target, valid = random_maps(*tail)
    assert error(prediction, target, torch.zeros_like(valid), scales=2).item() == 0
