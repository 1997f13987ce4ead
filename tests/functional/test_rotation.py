"""Oracles: SciPy's rotations, turns worked out by hand, and round trips."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from pano3d.functional.rotation import matrix_to_quaternion, nearest_rotation, quaternion_to_matrix


def test_quaternion_to_matrix_equals_scipy_for_any_length():
    quaternions = np.random.default_rng(0).normal(size=(5, 7, 4)) * 3
    expected = Rotation.from_quat(quaternions.reshape(-1, 4)).as_matrix().reshape(5, 7, 3, 3)
    np.testing.assert_allclose(quaternion_to_matrix(torch.from_numpy(quaternions)), expected, atol=1e-12)


def test_quarter_turn_about_z_by_hand():
    half = 0.5**0.5
    found = quaternion_to_matrix(torch.tensor([0.0, 0.0, half, half]))
    torch.testing.assert_close(found, torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]))


def test_zero_quaternion_is_no_rotation_and_has_finite_gradients():
    quaternion = torch.zeros(4, requires_grad=True)
    matrix = quaternion_to_matrix(quaternion)
    assert torch.equal(matrix, torch.eye(3))
    matrix.sum().backward()
    assert torch.isfinite(quaternion.grad).all()


def test_matrix_to_quaternion_equals_scipy_with_positive_scalar():
    rotations = Rotation.from_quat(np.random.default_rng(1).normal(size=(500, 4)))
    found = matrix_to_quaternion(torch.from_numpy(rotations.as_matrix())).numpy()
    np.testing.assert_allclose(found, rotations.as_quat(canonical=True), atol=1e-12)
    assert (found[:, 3] >= 0).all()


@pytest.mark.parametrize('axis', [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0, 0.8], [-0.6, 0.8, 0]])
@pytest.mark.parametrize('angle', [0.0, 1e-4, np.pi - 1e-4, np.pi])
def test_round_trip_holds_at_half_turns_in_single_precision(axis, angle):
    matrix = torch.from_numpy(Rotation.from_rotvec(angle * np.array(axis)).as_matrix()).float()
    quaternion = matrix_to_quaternion(matrix)
    assert torch.linalg.vector_norm(quaternion).item() == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(quaternion_to_matrix(quaternion), matrix, rtol=0, atol=2e-6)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r'`quaternion` must have shape \(\.\.\., 4\), got \(2, 3\)'):
        quaternion_to_matrix(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r'`matrix` must have shape \(\.\.\., 3, 3\), got \(3, 4\)'):
        matrix_to_quaternion(torch.zeros(3, 4))


def random_matrices(count, seed=0):
    return torch.randn(count, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_no_sampled_rotation_is_nearer():
    """Half of random matrices have a negative determinant: their nearest orthogonal matrix is a reflection."""
    matrices = random_matrices(20)
    found = nearest_rotation(matrices)
    torch.testing.assert_close(found @ found.transpose(1, 2), torch.eye(3).double().expand(20, 3, 3))
    torch.testing.assert_close(torch.linalg.det(found), torch.ones(20).double())
    sampled = torch.from_numpy(Rotation.random(20000, random_state=0).as_matrix())
    distance = (found - matrices).square().sum((1, 2))
    for matrix, ours in zip(matrices, distance, strict=True):
        best = (sampled - matrix).square().sum((1, 2)).min()
        assert ours <= best
        assert best - ours < 0.1  # the samples are dense enough to say so


def test_rotations_are_their_own_nearest():
    rotations = torch.from_numpy(Rotation.random(10, random_state=1).as_matrix())
    torch.testing.assert_close(nearest_rotation(3 * rotations), rotations)


def test_gradient_of_the_nearest_rotation_equals_finite_differences():
    assert torch.autograd.gradcheck(nearest_rotation, (random_matrices(6, seed=2).requires_grad_(),))
    # equal singular values, where the gradient of the decomposition itself is infinite
    rotations = torch.from_numpy(Rotation.random(3, random_state=3).as_matrix())
    assert torch.autograd.gradcheck(nearest_rotation, (rotations.requires_grad_(),))


def test_nearest_rotation_to_nothing_is_finite():
    matrix = torch.zeros(3, 3, requires_grad=True)
    found = nearest_rotation(matrix)
    found.sum().backward()
    assert torch.linalg.det(found).item() == pytest.approx(1)
    assert matrix.grad.isfinite().all()


def test_nearest_rotation_needs_matrices():
    with pytest.raises(ValueError, match=r'must have shape \(\.\.\., 3, 3\), got \(9,\)'):
        nearest_rotation(torch.zeros(9))
