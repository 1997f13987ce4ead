"""Oracle: `Reconstruction.from_depth`, and mmengine's data element."""

import pytest
import torch

from pano3d.structures import DepthViews, Reconstruction


def views(count=2, height=3, width=4):
    depth = torch.rand(count, height, width, generator=torch.Generator().manual_seed(0))
    depth[0, 0, 0] = 0
    intrinsics = torch.tensor([[5.0, 0, 1.5], [0, 5.0, 1.0], [0, 0, 1]]).repeat(count, 1, 1)
    return {'depth': depth, 'intrinsics': intrinsics, 'camera_to_world': torch.eye(4).repeat(count, 1, 1)}


def test_lifting_is_that_of_the_reconstruction():
    arguments = views()
    lifted, expected = DepthViews(**arguments).lift(), Reconstruction.from_depth(**arguments)
    for name, value in vars(expected).items():
        assert torch.equal(getattr(lifted, name), value)
    assert not lifted.valid[0, 0, 0]
    assert lifted.valid.sum() == 23


def test_everything_moves():
    moved = DepthViews(**views()).to('meta', non_blocking=True)
    assert {value.device.type for value in vars(moved).values()} == {'meta'}


@pytest.mark.parametrize(
    ('name', 'shape', 'message'),
    [
        ('depth', (3, 4), r'`depth` must have shape \(V, H, W\), got \(3, 4\)'),
        ('intrinsics', (1, 3, 3), r'`intrinsics` must have shape \(2, 3, 3\) beside `depth`, got \(1, 3, 3\)'),
        ('camera_to_world', (2, 3, 4), r'`camera_to_world` must have shape \(2, 4, 4\)'),
    ],
)
def test_shapes_that_do_not_fit(name, shape, message):
    with pytest.raises(ValueError, match=message):
        DepthViews(**{**views(), name: torch.zeros(shape)})
