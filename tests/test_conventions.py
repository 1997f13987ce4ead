"""The conventions of the project (docs/conventions.md), each pinned by numbers computed by hand.

Whoever changes one of them must change a number here.
"""

import math

import numpy as np
import torch

from pano3d.datasets.transforms.geometric import resample_nearest, resize_and_crop
from pano3d.functional.geometry import project, relative_to_first, transform_points, unproject
from pano3d.structures import VOID, LabelSpace, Reconstruction

INTRINSICS = torch.tensor([[10.0, 0, 2], [0, 10.0, 1], [0, 0, 1]])


def test_camera_axes_are_opencv():
    """x to the right, y down, z forward."""
    points = unproject(torch.full((3, 5), 5.0), INTRINSICS)
    assert points[1, 2].tolist() == [0, 0, 5]
    assert points[1, 4].tolist() == [1, 0, 5], 'two pixels to the right'
    assert points[2, 2].tolist() == [0, 0.5, 5], 'one pixel further down'


def test_depth_is_z_and_not_the_length_of_the_ray():
    points = unproject(torch.full((3, 5), 5.0), INTRINSICS)
    assert (points[..., 2] == 5).all()
    assert math.isclose(points[1, 4].norm().item(), math.sqrt(26), rel_tol=1e-6)


def test_pixel_zero_is_the_centre_of_the_top_left_pixel():
    """With the principal point at (0, 0) the optical axis goes through that centre."""
    intrinsics = torch.tensor([[10.0, 0, 0], [0, 10.0, 0], [0, 0, 1]])
    assert unproject(torch.ones(2, 2), intrinsics)[0, 0].tolist() == [0, 0, 1]
    assert project(torch.tensor([[0.0, 0, 1]]), intrinsics).tolist() == [[0, 0]]


def test_halving_an_image_keeps_its_corner_and_not_its_first_centre():
    """u' = (u + 0.5) / 2 - 0.5: the left border -0.5 stays, the centre 319.5 of 640 columns becomes that of 320."""
    _, to_target = resize_and_crop(np.zeros((480, 640, 3), np.uint8), (240, 320), np.array([0.5, 0.5]))
    for old, new in ((-0.5, -0.5), (0, -0.25), (319.5, 159.5)):
        assert to_target[0] @ (old, 0, 1) == new


def test_nearest_pixel_is_the_nearest_centre():
    shift = np.array([[1.0, 0, 0.4], [0, 1.0, 0], [0, 0, 1]])  # everything moves by 0.4 pixels to the right
    row = np.array([[1, 2, 3, 4]])
    assert resample_nearest(row, np.eye(3), shift, (1, 4)).tolist() == [[1, 2, 3, 4]]
    shift[0, 2] = 0.6
    assert resample_nearest(row, np.eye(3), shift, (1, 4)).tolist() == [[0, 1, 2, 3]]


def test_poses_are_camera_to_world_and_row_major():
    """A camera at (1, 2, 3) that looks along the world's x axis, with the world's z up."""
    camera_to_world = torch.tensor(
        [
            [0.0, 0.0, 1.0, 1.0],
            [-1.0, 0.0, 0.0, 2.0],
            [0.0, -1.0, 0.0, 3.0],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )
    ahead, right, below = torch.tensor([0.0, 0, 4]), torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0])
    points = transform_points(camera_to_world, torch.stack([ahead, right, below]))
    assert points.tolist() == [[5, 2, 3], [1, 1, 3], [1, 2, 2]]


def test_the_first_camera_is_the_reference():
    """It sits at (1, 2, 3) and looks along x; the second stands one metre ahead of it and looks the same way."""
    first = torch.tensor([[0.0, 0, 1, 1], [-1, 0, 0, 2], [0, -1, 0, 3], [0, 0, 0, 1]])
    second = first.clone()
    second[0, 3] = 2
    relative = relative_to_first(torch.stack([first, second]))
    assert torch.equal(relative[0], torch.eye(4))
    assert relative[1, :3, 3].tolist() == [0, 0, 1]


def test_zero_depth_is_unknown():
    depth = torch.tensor([[[1.5, 0.0, torch.inf, torch.nan]]])
    truth = Reconstruction.from_depth(depth, torch.eye(3)[None], torch.eye(4)[None])
    assert truth.valid.tolist() == [[[True, False, False, False]]]
    assert truth.points[0, 0, 0].tolist() == [0, 0, 1.5]
    assert truth.points.isfinite().all()


def test_void_and_stuff():
    """Category -1 is void; stuff is what the label space says, wherever it stands in the order."""
    assert VOID == -1
    for name in ('scannet20', 'scannet200'):
        space = LabelSpace.load(name)
        stuff = [n for n, is_stuff in zip(space.names, space.is_stuff.tolist(), strict=True) if is_stuff]
        assert sorted(stuff) == ['floor', 'wall']
