"""Oracles: cameras worked out by hand and round trips; tests/golden/test_vggt.py has the official conversion."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from pano3d.functional.pose_encoding import decode_cameras, encode_cameras


def test_right_angle_of_view_by_hand():
    """90 degrees: the focal length is half the side. Height comes first in the encoding."""
    encoding = torch.tensor([1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 1.0, math.pi / 2, 2 * math.atan(2.0)])
    pose, intrinsics = decode_cameras(encoding, (60, 80))
    torch.testing.assert_close(pose, torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]]))
    torch.testing.assert_close(intrinsics, torch.tensor([[20.0, 0, 40], [0, 30, 30], [0, 0, 1]]))
    torch.testing.assert_close(encode_cameras(pose, intrinsics, (60, 80)), encoding)


def test_cameras_survive_encoding():
    generator = np.random.default_rng(0)
    pose = torch.eye(4).repeat(2, 5, 1, 1)
    pose[..., :3, :3] = (
        torch.from_numpy(Rotation.from_quat(generator.normal(size=(10, 4))).as_matrix()).float().view(2, 5, 3, 3)
    )
    pose[..., :3, 3] = torch.from_numpy(generator.normal(size=(2, 5, 3))).float()
    intrinsics = torch.tensor([[50.0, 0, 49], [0, 70, 35], [0, 0, 1]]).repeat(2, 5, 1, 1)
    found_pose, found_intrinsics = decode_cameras(encode_cameras(pose, intrinsics, (70, 98)), (70, 98))
    torch.testing.assert_close(found_pose, pose, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found_intrinsics, intrinsics)


def test_no_field_of_view_gives_finite_intrinsics():
    _, intrinsics = decode_cameras(torch.zeros(3, 9), (28, 42))
    assert torch.isfinite(intrinsics).all()


def test_wrong_length_is_named():
    with pytest.raises(ValueError, match=r'`encoding` must have shape \(\.\.\., 9\), got \(2, 7\)'):
        decode_cameras(torch.zeros(2, 7), (28, 42))
