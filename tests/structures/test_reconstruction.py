"""Oracles: points computed one by one, and what torch does to each field alone."""

import dataclasses

import pytest
import torch

from pano3d.structures import Reconstruction

SHAPES = {
    'points': (2, 3, 4, 3),
    'local_points': (2, 3, 4, 3),
    'confidence': (2, 3, 4),
    'camera_to_world': (2, 4, 4),
    'intrinsics': (2, 3, 3),
    'valid': (2, 3, 4),
}


def fields(**changes):
    values = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    return {**values, 'valid': torch.zeros(SHAPES['valid'], dtype=torch.bool), **changes}


def truth():
    generator = torch.Generator().manual_seed(0)
    depth = torch.rand(2, 3, 4, generator=generator) + 1
    depth[0, 1, 2] = 0
    intrinsics = torch.tensor([[[5.0, 0, 2], [0, 6.0, 1], [0, 0, 1]], [[7.0, 0, 1], [0, 8.0, 2], [0, 0, 1]]])
    poses = torch.eye(4).repeat(2, 1, 1)
    poses[1] = torch.tensor([[0.0, 0, 1, 1], [-1, 0, 0, 2], [0, -1, 0, 3], [0, 0, 0, 1]])
    return depth, intrinsics, poses


def test_from_depth_pixel_by_pixel():
    depth, intrinsics, poses = truth()
    result = Reconstruction.from_depth(depth, intrinsics, poses)
    for view in range(2):
        for v in range(3):
            for u in range(4):
                d = depth[view, v, u]
                pixel = torch.tensor([u, v, 1.0])
                local = torch.linalg.inv(intrinsics[view]) @ pixel * d
                world = poses[view, :3, :3] @ local + poses[view, :3, 3]
                torch.testing.assert_close(result.local_points[view, v, u], local)
                torch.testing.assert_close(result.points[view, v, u], world)
                assert result.valid[view, v, u] == (d > 0)
    assert (result.confidence == 1).all()
    assert torch.equal(result.depth, depth)


def test_from_depth_takes_batches():
    depth, intrinsics, poses = truth()
    single = Reconstruction.from_depth(depth, intrinsics, poses)
    batch = Reconstruction.from_depth(*(torch.stack([t, t]) for t in (depth, intrinsics, poses)))
    stacked = Reconstruction.stack([single, single])
    for name in SHAPES:
        assert torch.equal(getattr(batch, name), getattr(stacked, name))
        assert torch.equal(getattr(batch[1], name), getattr(single, name))
        assert torch.equal(getattr(single[:1], name), getattr(single, name)[:1])


def test_from_depth_leaves_its_input():
    depth, intrinsics, poses = truth()
    depth[0, 0, 0] = torch.nan
    before = depth.clone()
    Reconstruction.from_depth(depth, intrinsics, poses)
    assert torch.equal(depth, before) or torch.equal(depth.isnan(), before.isnan())


@pytest.mark.parametrize('name', [name for name in SHAPES if name != 'valid'])
def test_shapes_must_fit(name):
    wrong = torch.zeros(SHAPES[name][:-1])
    with pytest.raises(ValueError, match=rf'`{name}` must have shape .* got') as caught:
        Reconstruction(**fields(**{name: wrong}))
    assert str(SHAPES[name]) in str(caught.value)


def test_valid_must_be_bool():
    with pytest.raises(ValueError, match=r'`valid` must be bool, got torch.float32'):
        Reconstruction(**fields(valid=torch.zeros(SHAPES['valid'])))


def test_to_moves_every_field():
    moved = Reconstruction(**fields()).to('meta', non_blocking=True)
    assert {getattr(moved, name).device.type for name in SHAPES} == {'meta'}


def test_detach():
    points = torch.zeros(SHAPES['points'], requires_grad=True)
    assert not Reconstruction(**fields(points=points)).detach().points.requires_grad


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Reconstruction(**fields()).points = torch.zeros(1)
