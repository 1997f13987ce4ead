"""Oracles: SciPy's rotations, turns worked out by hand, and round trips."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from pano3d.functional.rotation import matrix_to_quaternion, quaternion_to_matrix


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
