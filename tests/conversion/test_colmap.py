from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pano3d.conversion.colmap import read_cameras, read_posed_images


def test_cameras(tmp_path: Path) -> None:
    path = tmp_path / 'cameras.txt'
    path.write_text(
        '# CAMERA_ID, MODEL\n7 OPENCV 640 480 500 501 320 240 0.1 -0.2 0.001 0.002\r\n\n9 PINHOLE 4 3 5 6 2 1.5\n'
    )
    cameras = read_cameras(path)
    assert sorted(cameras) == [7, 9]
    assert (cameras[7].model, cameras[7].size) == ('OPENCV', (640, 480))
    assert cameras[7].matrix.tolist() == [[500, 0, 320], [0, 501, 240], [0, 0, 1]]
    assert cameras[7].coefficients.tolist() == [0.1, -0.2, 0.001, 0.002]
    assert cameras[9].intrinsics.tolist() == [[5, 0, 1.5], [0, 6, 1], [0, 0, 1]], 'half a pixel to our convention'


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('1 SPHERICAL 640 480 1 2', "camera model 'SPHERICAL': expected one of"),
        ('1', "camera model 'nothing'"),
        ('1 PINHOLE 640 480 5 6 2', 'expected 4 finite numbers'),
        ('1 PINHOLE 640 480 5 6 2 nan', 'expected 4 finite numbers'),
        ('1 PINHOLE 640 480 5 -6 2 2', 'the first two positive'),
        ('1 PINHOLE 640 480 five 6 2 2', 'expected CAMERA_ID MODEL'),
        ('one PINHOLE 640 480 5 6 2 2', 'expected CAMERA_ID MODEL'),
        ('1 PINHOLE 640', 'expected CAMERA_ID MODEL'),
        ('1 PINHOLE 1099511627776 480 5 6 2 2', 'image sides of 1 to 4096 pixels, found 1099511627776x480'),
        ('1 PINHOLE 640 0 5 6 2 2', 'image sides'),
    ],
)
def test_damaged_cameras(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / 'cameras.txt'
    path.write_text(f'# comment\n{line}\n')
    with pytest.raises(ValueError, match=rf'cameras\.txt: line 2: .*{message}'):
        read_cameras(path)


def test_poses_are_turned_to_camera_to_world(tmp_path: Path) -> None:
    """A quarter turn about z, world to camera: x' = -y + 1, y' = x + 2, z' = z + 3. So the camera is at (-2, 1, -3)."""
    path = tmp_path / 'images.txt'
    # The quaternion is twice as long as it should be; the first image has no points, which is an empty line.
    path.write_text(
        f'# comment\n5 {2**0.5} 0 0 {2**0.5} 1 2 3 1 a b.jpg\n\n2 1 0 0 0 0 0 0 4 video/frame_000003.jpg\n1 2 -1'
    )
    first, second = read_posed_images(path)
    assert (first.name, first.camera_id, second.name, second.camera_id) == ('a b.jpg', 1, 'video/frame_000003.jpg', 4)
    expected = [[0, 1, 0, -2], [-1, 0, 0, 1], [0, 0, 1, -3], [0, 0, 0, 1]]
    np.testing.assert_allclose(first.camera_to_world, expected, atol=1e-12)
    np.testing.assert_array_equal(second.camera_to_world, np.eye(4))


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('1 1 0 0 0 0 0 0 1', 'expected IMAGE_ID'),
        ('1 1 0 0 zero 0 0 0 1 a.jpg', 'expected IMAGE_ID'),
        ('1 0 0 0 0 0 0 0 1 a.jpg', 'a quaternion about 1 long'),
        ('1 1 0 0 0 0 nan 0 1 a.jpg', 'a translation below'),
        ('1 1 0 0 0 0 1e300 0 1 a.jpg', 'a translation below'),
        ('1 inf 0 0 0 0 0 0 1 a.jpg', 'a quaternion about 1 long'),
        ('1 1 0 0 0 0 0 0 1 good.jpg', "'good.jpg' occurs twice"),
    ],
)
def test_damaged_images(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / 'images.txt'
    path.write_text(f'1 1 0 0 0 0 0 0 1 good.jpg\n\n{line}\n\n')
    with pytest.raises(ValueError, match=rf'images\.txt: line 3: .*{message}'):
        read_posed_images(path)
