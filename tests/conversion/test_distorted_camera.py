from __future__ import annotations

import numpy as np
import pytest

from pano3d.conversion.distorted_camera import DistortedCamera, Undistortion

SIZE = (60, 40)
MATRIX = np.array([[27.0, 0, 30.2], [0, 26.8, 19.7], [0, 0, 1]])
FISHEYE = DistortedCamera('OPENCV_FISHEYE', SIZE, MATRIX, np.array([-0.03, -0.008, -0.001, 0.0004]))
OPENCV = DistortedCamera(
    'OPENCV',
    SIZE,
    MATRIX * [[2], [2], [1]] - [[0, 0, 30.0], [0, 0, 20.0], [0, 0, 0]],
    np.array([0.05, -0.07, 2e-3, -1e-3]),
)


def project(camera: DistortedCamera, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where points (x, y, 1) fall, in COLMAP's pixels: the textbook formulas."""
    (fx, _, cx), (_, fy, cy), _ = camera.matrix
    if camera.model == 'OPENCV_FISHEYE':
        r = np.hypot(x, y)
        t = np.arctan(r)
        k1, k2, k3, k4 = camera.coefficients
        bent = t * (1 + k1 * t**2 + k2 * t**4 + k3 * t**6 + k4 * t**8)
        scale = np.where(r > 0, bent / np.maximum(r, 1e-12), 1)
        return fx * x * scale + cx, fy * y * scale + cy
    k1, k2, p1, p2 = camera.coefficients
    s = x * x + y * y
    bend = 1 + k1 * s + k2 * s * s
    u = x * bend + 2 * p1 * x * y + p2 * (s + 2 * x * x)
    v = y * bend + p1 * (s + 2 * y * y) + 2 * p2 * x * y
    return fx * u + cx, fy * v + cy


@pytest.mark.parametrize('camera', [FISHEYE, OPENCV], ids=lambda camera: camera.model)
def test_rays_go_through_pixel_centres(camera: DistortedCamera) -> None:
    rays = camera.rays()
    assert rays.shape == (40, 60, 3)
    assert (rays[..., 2] == 1).all()
    u, v = project(camera, rays[..., 0], rays[..., 1])
    np.testing.assert_allclose(u, np.arange(60)[None] + 0.5 + 0 * v, atol=1e-5)
    np.testing.assert_allclose(v, np.arange(40)[:, None] + 0.5 + 0 * u, atol=1e-5)


def test_pinhole_rays() -> None:
    camera = DistortedCamera('PINHOLE', (3, 2), np.array([[2.0, 0, 1.5], [0, 4.0, 1], [0, 0, 1]]), np.zeros(0))
    assert camera.undistorted is camera
    assert camera.rays()[0].tolist() == [[-0.5, -0.125, 1], [0, -0.125, 1], [0.5, -0.125, 1]]


def test_pixels_of_a_fisheye_that_look_backwards_have_no_ray() -> None:
    camera = DistortedCamera(
        'OPENCV_FISHEYE', (100, 100), np.array([[25.0, 0, 50], [0, 25.0, 50], [0, 0, 1]]), np.zeros(4)
    )
    usable = np.isfinite(camera.rays()).all(-1)
    angle = np.hypot(*(np.mgrid[:100, :100] - 49.5)) / 25
    assert (usable == (angle < np.pi / 2)).mean() > 0.99


@pytest.mark.parametrize('camera', [FISHEYE, OPENCV], ids=lambda camera: camera.model)
def test_undistorted_images_show_what_the_ray_shows(camera: DistortedCamera) -> None:
    """Oracle: pictures whose values are their own pixel coordinates; bilinear sampling reads those exactly."""
    target = camera.undistorted
    undistortion = Undistortion(camera, target)
    x, y, _ = np.moveaxis(target.rays(), -1, 0)
    u, v = (at - 0.5 for at in project(camera, x, y))  # COLMAP's pixels to ours
    inside = (u > 0) & (u < 59) & (v > 0) & (v < 39)
    assert inside.mean() > 0.9
    columns = np.tile(np.arange(60, dtype=np.uint8) * 4, (40, 1))
    rows = np.tile(np.arange(40, dtype=np.uint8)[:, None] * 4, (1, 60))
    found = undistortion.color(np.stack([columns, rows, rows], axis=-1)).astype(float) / 4
    assert np.abs(found[..., 0] - u)[inside].max() < 0.2  # 8-bit values and 5-bit weights
    assert np.abs(found[..., 1] - v)[inside].max() < 0.2
    if camera is FISHEYE:
        official = Undistortion(camera, target, pixel_centre=0)
        shifted = official.color(np.stack([columns, rows, rows], axis=-1)).astype(float) / 4
        assert 0.3 < np.abs(shifted[..., 0] - u)[inside].max() < 0.6, 'the official tool is off by up to half a pixel'


def test_nearest_takes_values_and_never_mixes() -> None:
    image = np.random.default_rng(0).choice(np.array([0, 1000, 60000], np.uint16), (40, 60))
    found = Undistortion(FISHEYE, FISHEYE.undistorted).nearest(image)
    assert found.dtype == np.uint16
    assert set(np.unique(found)) == {0, 1000, 60000}


def test_what_the_source_does_not_see() -> None:
    wide = DistortedCamera('PINHOLE', (60, 40), np.array([[9.0, 0, 30], [0, 9.0, 20], [0, 0, 1]]), np.zeros(0))
    undistortion = Undistortion(FISHEYE, wide)
    u, v = project(FISHEYE, *np.moveaxis(wide.rays(), -1, 0)[:2])
    np.testing.assert_array_equal(undistortion.seen, (u > 0) & (u < 60) & (v > 0) & (v < 40))
    assert 0.1 < undistortion.seen.mean() < 0.9
    np.testing.assert_array_equal(undistortion.nearest(np.full((40, 60), 7, np.uint16)), undistortion.seen * 7)


def test_a_mask_keeps_no_pixel_that_takes_from_a_masked_one() -> None:
    mask = np.full((40, 60), 255, np.uint8)
    mask[10:20, 5:25] = 0
    undistortion = Undistortion(FISHEYE, FISHEYE.undistorted)
    found = undistortion.mask(mask)
    assert set(np.unique(found)) == {0, 255}
    visible = np.repeat(mask[..., None], 3, axis=-1)
    np.testing.assert_array_equal(found == 255, (undistortion.color(visible) == 255).all(-1))


def test_resizing_keeps_the_corners() -> None:
    half = OPENCV.resized((30, 20))
    assert half.matrix[0].tolist() == [27, 0, 15.2]
    np.testing.assert_allclose(OPENCV.rays()[:2, :2].mean((0, 1)), half.rays()[0, 0], atol=1e-3)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match='must be of size 60x40, got 40x60'):
        Undistortion(FISHEYE, FISHEYE.undistorted).color(np.zeros((60, 40, 3), np.uint8))


def test_a_lens_without_pinhole_is_refused() -> None:
    wild = DistortedCamera('OPENCV_FISHEYE', SIZE, MATRIX, np.array([1e300, -1e300, 1e300, 1e300]))
    with pytest.raises(ValueError, match='no pinhole sees'):
        _ = wild.undistorted
