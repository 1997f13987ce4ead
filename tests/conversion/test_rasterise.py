from __future__ import annotations

import numpy as np
import pytest

from pano3d.conversion.rasterise import MeshRasteriser

INTRINSICS = np.array([[20.0, 0, 9.5], [0, 24.0, 7.0], [0, 0, 1]])
SIZE = (20, 15)


def rays_of(intrinsics: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Written apart from the code under test: pixel by pixel."""
    inverse = np.linalg.inv(intrinsics)
    return np.array([[inverse @ (x, y, 1) for x in range(size[0])] for y in range(size[1])])


def nearest_hit(vertices: np.ndarray, faces: np.ndarray, origin: np.ndarray, ray: np.ndarray) -> tuple[float, int]:
    """Brute force: solve origin + t * ray = a + u * (b - a) + v * (c - a) for every face."""
    best, number = np.inf, -1
    for index, (a, b, c) in enumerate(vertices[faces]):
        matrix = np.stack([-ray, b - a, c - a], axis=1)
        if abs(np.linalg.det(matrix)) < 1e-9:
            continue
        t, u, v = np.linalg.solve(matrix, origin - a)
        if u >= 0 and v >= 0 and u + v <= 1 and 0 < t < best:
            best, number = t, index
    return best, number


def random_pose(rng: np.random.Generator) -> np.ndarray:
    pose = np.eye(4)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    pose[:3, :3] = rotation * np.sign(np.linalg.det(rotation))
    pose[:3, 3] = rng.normal(size=3) * 0.3
    return pose


def test_a_slanted_plane_has_its_analytic_depth() -> None:
    """z = 2 + 0.5 x: along the ray (x', y', 1) the depth is 2 / (1 - 0.5 x')."""
    x = np.array([-9.0, 9.0])
    vertices = np.array([[a, b, 2 + 0.5 * a] for a in x for b in (-9.0, 9.0)])
    rasteriser = MeshRasteriser(vertices, np.array([[0, 1, 2], [1, 3, 2]]), np.full(4, 7))
    depth, labels = rasteriser.pinhole_view(INTRINSICS, SIZE, np.eye(4))
    expected = 2 / (1 - 0.5 * rays_of(INTRINSICS, SIZE)[..., 0])
    np.testing.assert_allclose(depth, expected, rtol=1e-5)
    assert (labels == 7).all()


def test_depth_is_z_and_not_the_length_of_the_ray() -> None:
    """A wall 3 m ahead, seen by a camera at (1, 2, 3) that looks along the world's x axis."""
    pose = np.array([[0.0, 0, 1, 1], [-1, 0, 0, 2], [0, -1, 0, 3], [0, 0, 0, 1]])
    vertices = np.array([[4.0, y, z] for y in (-50, 50) for z in (-50, 50)])
    depth, _ = MeshRasteriser(vertices, np.array([[0, 1, 2], [1, 3, 2]]), np.ones(4, int)).pinhole_view(
        INTRINSICS, SIZE, pose
    )
    np.testing.assert_allclose(depth, 3, rtol=1e-6)


def test_random_triangles_against_brute_force() -> None:
    rng = np.random.default_rng(0)
    vertices, faces = rng.normal((0, 0, 3), 1, (24, 3)), rng.permutation(24).reshape(8, 3)
    labels = rng.integers(1, 60000, 24).astype(np.uint16)
    rasteriser = MeshRasteriser(vertices, faces, labels)
    for _ in range(3):
        pose = random_pose(rng)
        pose[:3, :3] = np.eye(3)
        depth, found = rasteriser.pinhole_view(INTRINSICS, SIZE, pose)
        assert found.dtype == np.uint16
        seen = set()
        for (row, column), ray in zip(np.ndindex(15, 20), rays_of(INTRINSICS, SIZE).reshape(-1, 3), strict=True):
            best, face = nearest_hit(vertices, faces, pose[:3, 3], ray)
            expected = (0, 0) if face < 0 else (best, labels[faces[face, 0]])
            np.testing.assert_allclose((depth[row, column], found[row, column]), expected, rtol=1e-4)
            seen.add(face)
        assert len(seen) > 3
        assert -1 in seen


def test_rays_of_any_camera() -> None:
    """The rays of a pinhole camera give the pinhole's picture; a pixel without a ray sees nothing."""
    rng = np.random.default_rng(1)
    vertices, faces = rng.normal(size=(60, 3)) * 2, rng.permutation(60).reshape(20, 3)
    rasteriser, pose = MeshRasteriser(vertices, faces, np.arange(60)), random_pose(rng)
    rays = rays_of(INTRINSICS, SIZE)
    for found, expected in zip(
        rasteriser.view(rays, pose), rasteriser.pinhole_view(INTRINSICS, SIZE, pose), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    rays[3:, :5] = np.nan
    depth, labels = rasteriser.view(rays, pose)
    assert not depth[3:, :5].any()
    assert not labels[3:, :5].any()
    assert depth[:3].any()


def test_a_mesh_without_faces_shows_nothing() -> None:
    depth, labels = MeshRasteriser(np.zeros((2, 3)), np.zeros((0, 3), int), np.array([1, 2])).pinhole_view(
        INTRINSICS, SIZE, np.eye(4)
    )
    assert (depth.shape, depth.any(), labels.any()) == ((15, 20), False, False)


@pytest.mark.parametrize(
    ('vertices', 'faces', 'labels', 'message'),
    [
        (np.zeros((3, 2)), np.zeros((1, 3), int), np.zeros(3, int), '`vertices` must have shape'),
        (np.zeros((3, 3)), np.zeros((1, 4), int), np.zeros(3, int), '`faces` must have shape'),
        (np.zeros((3, 3)), np.zeros((1, 3), int), np.zeros(4, int), '3 whole numbers, one per vertex'),
        (np.zeros((3, 3)), np.zeros((1, 3), int), np.zeros(3), '3 whole numbers, one per vertex, got float64'),
    ],
)
def test_shapes_are_checked(vertices: np.ndarray, faces: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MeshRasteriser(vertices, faces, labels)
