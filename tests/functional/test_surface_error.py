"""Oracles: the definitions written as loops over pixels, and surfaces whose error is known."""

import itertools
import math

import numpy as np
import pytest
import torch

from pano3d.functional.surface_error import (
    corner_angle_error,
    corner_normals,
    depth_edges,
    gradient_error,
    normal_error,
)

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


def tilted_plane(slope, size=(6, 8)):
    """z = 2 + slope * x over a regular grid, (1, H, W, 3)."""
    y, x = torch.meshgrid(torch.arange(size[0], dtype=torch.float64), torch.arange(size[1]).double(), indexing='ij')
    return torch.stack([x, y, 2 + slope * x], dim=-1)[None]


@pytest.mark.parametrize(('degrees', 'expected'), [(0.5, 1), (2, 2), (10, 10), (45, 45), (89, 89)])
def test_angle_between_planes_by_hand(degrees, expected):
    """Four corners of the same angle; below one degree it counts as one, below three as a square."""
    plane = tilted_plane(math.tan(math.radians(degrees)))
    valid = torch.ones(plane.shape[:3], dtype=torch.bool)
    angle, width = math.radians(expected), math.radians(3)
    each = angle**2 / (2 * width) if angle < width else angle - width / 2
    found = corner_angle_error(plane, tilted_plane(0), valid).item()
    assert found == pytest.approx(4 * each / (4 * 8), rel=1e-6)


def test_corner_normals_equal_cross_products():
    points = torch.randn(1, 3, 4, 3)
    (a, b), (c, d) = points[0, 1:3, 2:4]
    expected = [
        torch.linalg.cross(*edges) for edges in ((b - a, c - a), (d - b, a - b), (c - d, b - d), (a - c, d - c))
    ]
    torch.testing.assert_close(corner_normals(points)[:, 0, 1, 2], torch.stack(expected))


def test_corners_need_three_valid_pixels():
    """Of 2x2 pixels with one missing, a single corner remains."""
    plane = tilted_plane(1.0, size=(2, 2)).requires_grad_()
    valid = torch.tensor([[[True, True], [True, False]]])
    truth = torch.where(valid[..., None], tilted_plane(0, size=(2, 2)), float('nan'))
    error = corner_angle_error(plane, truth, valid)
    assert error.item() == pytest.approx((math.radians(45) - math.radians(1.5)) / 8, rel=1e-6)
    error.backward()
    assert plane.grad.isfinite().all()
    assert not plane.grad[~valid].any()


def test_coinciding_points_have_finite_gradients():
    points = torch.zeros(1, 3, 3, 3, requires_grad=True)
    corner_angle_error(points, tilted_plane(0, size=(3, 3)).float(), torch.ones(1, 3, 3, dtype=torch.bool)).backward()
    assert points.grad.isfinite().all()


def test_depth_edges_by_hand():
    depth = torch.full((1, 3, 6), 2.0)
    depth[..., 3:] = 2.1  # 5 % and 4.8 %
    columns = [False, False, True, True, False, False]
    assert depth_edges(depth, tolerance=0.03)[0].tolist() == [columns] * 3
    columns[3] = False
    assert depth_edges(depth, tolerance=0.049)[0].tolist() == [columns] * 3
