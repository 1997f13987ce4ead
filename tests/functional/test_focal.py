"""Oracles: cameras that made the points, and direct search for the smallest sum of distances."""

import pytest
import torch

from pano3d.functional.focal import focal_from_points, pinhole_intrinsics
from pano3d.functional.geometry import pixel_grid, unproject

SIZE = (12, 16)


def points_of(*focals, seed=0):
    """Point maps (len(focals), H, W, 3) that cameras of these focal lengths see."""
    depth = 1 + torch.rand(len(focals), *SIZE, generator=torch.Generator().manual_seed(seed))
    return unproject(depth, pinhole_intrinsics(torch.tensor(focals), SIZE))


def test_intrinsics_by_hand():
    expected = [[7.0, 0, 8], [0, 7, 6], [0, 0, 1]]
    assert pinhole_intrinsics(torch.tensor(7.0), SIZE).tolist() == expected
    assert pinhole_intrinsics(torch.full((2, 3), 7.0), SIZE)[1, 2].tolist() == expected


def test_focal_lengths_come_back():
    torch.testing.assert_close(focal_from_points(points_of(10.0, 25.0, 90.0)), torch.tensor([10.0, 25.0, 90.0]))
    torch.testing.assert_close(
        focal_from_points(points_of(10.0, 25.0).view(1, 2, *SIZE, 3)), torch.tensor([[10.0, 25.0]])
    )


def test_outliers_do_not_pull():
    points = points_of(20.0)
    points[0, :1, :, :2] *= 3
    assert focal_from_points(points, iterations=0).item() < 15
    assert focal_from_points(points, iterations=50).item() == pytest.approx(20, abs=0.01)


def test_no_other_focal_length_is_better():
    """The minimum of the convex sum of distances by brute force."""
    points = points_of(20.0) + 0.3 * torch.randn(1, *SIZE, 3, generator=torch.Generator().manual_seed(1))
    pixels = pixel_grid(*SIZE) - torch.tensor([SIZE[1] / 2, SIZE[0] / 2])
    candidates = torch.linspace(1, 40, 39001)
    rays = (points[0, ..., :2] / points[0, ..., 2:]).view(-1, 2)
    errors = sum(
        (pixel - candidates[:, None] * ray).norm(dim=-1) for pixel, ray in zip(pixels.view(-1, 2), rays, strict=True)
    )
    found = focal_from_points(points, iterations=200).item()
    assert found == pytest.approx(candidates[errors.argmin()].item(), abs=5e-3)


def test_pixels_that_are_not_valid_do_not_count():
    points = points_of(20.0)
    valid = torch.rand(1, *SIZE, generator=torch.Generator().manual_seed(0)) < 0.5
    points[~valid] = torch.rand(int((~valid).sum()), 3)
    torch.testing.assert_close(focal_from_points(points, valid=valid), torch.tensor([20.0]))
    points[~valid] = float('nan')
    torch.testing.assert_close(focal_from_points(points), torch.tensor([20.0]))


@pytest.mark.parametrize('points', [torch.zeros(1, *SIZE, 3), -points_of(20.0) * torch.tensor([1, 1, -1])])
def test_without_a_camera_that_fits_the_longer_side_is_returned(points):
    """Points that are all at the camera, and an image that is turned over."""
    assert focal_from_points(points).item() == max(SIZE)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r'must have shape \(..., H, W, 3\), got \(5, 4\)'):
        focal_from_points(torch.zeros(5, 4))
    with pytest.raises(ValueError, match=r'`valid` must have shape \(2, 4, 5\) .* got \(4, 5\)'):
        focal_from_points(torch.ones(2, 4, 5, 3), valid=torch.ones(4, 5, dtype=torch.bool))
