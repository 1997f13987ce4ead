"""Oracles: numbers computed by hand, round trips, and numpy's general matrix algebra."""

import numpy as np
import pytest
import torch

from pano3d.functional.geometry import (
    invert_rigid,
    pixel_grid,
    project,
    relative_to_first,
    transform_points,
    unproject,
)


def random_poses(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(*shape, 3, 3, generator=generator, dtype=torch.float64))
    rotation = rotation * torch.det(rotation).sign()[..., None, None]
    poses = torch.eye(4, dtype=torch.float64).repeat(*shape, 1, 1)
    poses[..., :3, :3] = rotation
    poses[..., :3, 3] = torch.randn(*shape, 3, generator=generator, dtype=torch.float64)
    return poses.to(dtype)


def random_intrinsics(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    intrinsics = torch.zeros(*shape, 3, 3, dtype=torch.float64)
    intrinsics[..., 0, 0], intrinsics[..., 1, 1] = 40 + 10 * torch.rand(2, *shape, generator=generator).double()
    intrinsics[..., 0, 2], intrinsics[..., 1, 2] = 5 + 3 * torch.rand(2, *shape, generator=generator).double()
    intrinsics[..., 2, 2] = 1
    return intrinsics


def test_pixel_grid_is_x_then_y():
    assert pixel_grid(2, 3).tolist() == [[[0, 0], [1, 0], [2, 0]], [[0, 1], [1, 1], [2, 1]]]


def test_unproject_by_hand():
    """Pixel (u=3, v=1), depth 2, focal lengths 4 and 5, centre (1, 3): x = 2 / 4 * 2, y = -2 / 5 * 2."""
    depth = torch.zeros(4, 5)
    depth[1, 3] = 2.0
    points = unproject(depth, torch.tensor([[4.0, 0, 1], [0, 5.0, 3], [0, 0, 1]]))
    torch.testing.assert_close(points[1, 3], torch.tensor([1.0, -0.8, 2.0]))


@pytest.mark.parametrize('shape', [(), (3,), (2, 3)])
def test_project_undoes_unproject(shape):
    depth = torch.rand(*shape, 6, 8, dtype=torch.float64) + 0.5
    intrinsics = random_intrinsics(*shape)
    points = unproject(depth, intrinsics)
    assert points.shape == (*shape, 6, 8, 3)
    assert torch.equal(points[..., 2], depth)
    pixels = project(points.flatten(-3, -2), intrinsics).unflatten(-2, (6, 8))
    torch.testing.assert_close(pixels, pixel_grid(6, 8).double().expand_as(pixels))


def test_project_by_hand():
    intrinsics = torch.tensor([[100.0, 0, 50], [0, 200.0, 60], [0, 0, 1]])
    assert project(torch.tensor([[0.5, -0.25, 2.0]]), intrinsics).tolist() == [[75.0, 35.0]]


@pytest.mark.parametrize(('matrices', 'points'), [((), ()), ((3,), (3,)), ((2, 3, 1), (2, 3, 7)), ((), (4,))])
def test_transform_points_against_homogeneous_coordinates(matrices, points):
    matrix, cloud = random_poses(*matrices), torch.randn(*points, 5, 3, dtype=torch.float64)
    homogeneous = np.concatenate([cloud.numpy(), np.ones((*points, 5, 1))], -1)
    expected = np.einsum('...ij,...nj->...ni', matrix.numpy(), homogeneous)[..., :3]
    np.testing.assert_allclose(transform_points(matrix, cloud).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize('shape', [(), (5,), (2, 5)])
def test_invert_rigid_against_general_inverse(shape):
    poses = random_poses(*shape)
    torch.testing.assert_close(invert_rigid(poses), torch.linalg.inv(poses))


def test_relative_to_first():
    poses = random_poses(2, 4)
    relative = relative_to_first(poses)
    torch.testing.assert_close(relative[:, 0], torch.eye(4, dtype=torch.float64).expand(2, 4, 4))
    torch.testing.assert_close(relative, torch.linalg.inv(poses[:, :1]) @ poses)
    moved = relative_to_first(random_poses(seed=9) @ poses)  # the choice of world must not matter
    torch.testing.assert_close(moved, relative)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_costs_no_precision(dtype):
    """In bfloat16 a point at 5 m would be off by centimetres."""
    poses, points = random_poses(4, dtype=torch.float32), 5 * torch.rand(4, 50, 3)
    plain = transform_points(poses, points), invert_rigid(poses), relative_to_first(poses)
    with torch.autocast('cpu', dtype=dtype):
        casted = transform_points(poses, points), invert_rigid(poses), relative_to_first(poses)
    for one, two in zip(plain, casted, strict=True):
        assert two.dtype == torch.float32
        assert torch.equal(one, two)


def test_gradients():
    depth = torch.rand(2, 3, 4, dtype=torch.float64).add(1).requires_grad_()
    intrinsics, poses = random_intrinsics(2).requires_grad_(), random_poses(2, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda d, k, m: transform_points(m, unproject(d, k)), (depth, intrinsics, poses))


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda: unproject(torch.ones(2, 3, 4), torch.ones(3, 3)), r'got \(2, 3, 4\) and \(3, 3\)'),
        (lambda: unproject(torch.ones(3, 4), torch.ones(4, 4)), r'got \(3, 4\) and \(4, 4\)'),
        (lambda: transform_points(torch.eye(4), torch.ones(5, 4)), r'`points` must have shape .* got \(5, 4\)'),
        (lambda: project(torch.ones(5, 2), torch.eye(3)), r'`points` must have shape .* got \(5, 2\)'),
    ],
)
def test_wrong_shapes(call, message):
    with pytest.raises(ValueError, match=message):
        call()
