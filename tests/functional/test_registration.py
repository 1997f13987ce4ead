"""Oracles: known motions, scipy's solver and direct search."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from pano3d.functional.geometry import transform_points
from pano3d.functional.registration import register_points


def random_motion(*shape, seed=0, scale=1.0):
    count = int(np.prod(shape))
    motion = torch.eye(4, dtype=torch.float64).repeat(*shape, 1, 1)
    rotation = torch.from_numpy(Rotation.random(count, random_state=seed).as_matrix()).view(*shape, 3, 3)
    motion[..., :3, :3] = scale * rotation
    motion[..., :3, 3] = torch.randn(*shape, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return motion


def random_points(*shape, seed=1):
    return torch.randn(*shape, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize('shape', [(), (3,), (2, 3)])
@pytest.mark.parametrize('factor', [1.0, 2.5])
def test_known_motions_come_back(shape, factor):
    motion = random_motion(*shape, scale=factor)
    source = random_points(*shape, 20)
    target = transform_points(motion, source)
    found, scale = register_points(source, target, torch.rand(*shape, 20).double() + 0.1, with_scale=factor != 1)
    torch.testing.assert_close(found, motion)
    torch.testing.assert_close(scale, torch.full(shape, factor, dtype=torch.float64))


def test_noisy_points_agree_with_scipy():
    source, target = random_points(30), random_points(30, seed=2)
    weights = torch.rand(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found, _ = register_points(source, target, weights)
    share = weights[:, None] / weights.sum()
    centred = [(points - (share * points).sum(0)).numpy() for points in (target, source)]
    expected, _ = Rotation.align_vectors(*centred, weights=weights.numpy())
    np.testing.assert_allclose(found[:3, :3].numpy(), expected.as_matrix(), atol=1e-10)
    torch.testing.assert_close(transform_points(found, (share * source).sum(0)[None])[0], (share * target).sum(0))


def test_no_nearby_similarity_is_better():
    source, weights = random_points(15), torch.rand(15, dtype=torch.float64)
    target = transform_points(random_motion(scale=0.7), source) + 0.3 * random_points(15, seed=3)

    def error(motion):
        return (weights * (transform_points(motion, source) - target).square().sum(-1)).sum().item()

    found, _ = register_points(source, target, weights, with_scale=True)
    for seed in range(50):
        change = random_motion(seed=seed)
        turn = Rotation.from_matrix(change[:3, :3].numpy()).as_rotvec() * 1e-3
        nearby = found.clone()
        nearby[:3, :3] = torch.from_numpy(Rotation.from_rotvec(turn).as_matrix()) @ found[:3, :3] * (1 + 1e-3 * turn[0])
        nearby[:3, 3] += 1e-3 * change[:3, 3]
        assert error(found) < error(nearby)


def test_mirrored_points_give_a_rotation():
    source = random_points(10)
    found, _ = register_points(source, source * torch.tensor([1.0, 1, -1]), torch.ones(10))
    assert torch.linalg.det(found[:3, :3]).item() == pytest.approx(1)


def test_pairs_without_weight_or_value_do_not_count():
    motion, source = random_motion(), random_points(10)
    target = transform_points(motion, source)
    target[0] += 100
    target[1] = float('nan')
    weights = torch.ones(10, dtype=torch.float64)
    weights[0] = 0
    found, _ = register_points(source, target, weights)
    torch.testing.assert_close(found, motion)


@pytest.mark.parametrize('with_scale', [False, True])
def test_nothing_to_align_is_no_rotation(with_scale):
    source, target = random_points(5).float(), random_points(5, seed=2).float()
    nothing, scale = register_points(source, target, torch.zeros(5), with_scale=with_scale)
    assert torch.equal(nothing, torch.eye(4))
    assert scale.item() == 1
    point, scale = register_points(
        source[:1].expand(5, 3), target[:1].expand(5, 3), torch.ones(5), with_scale=with_scale
    )
    torch.testing.assert_close(point[:3, :3], torch.eye(3))
    torch.testing.assert_close(point[:3, 3], target[0] - source[0])
    assert scale.item() == 1


def test_points_on_a_line_give_a_motion_that_fits():
    source = torch.linspace(0, 1, 7)[:, None] * torch.tensor([1.0, 2, 3])
    target = torch.linspace(0, 1, 7)[:, None] * torch.tensor([3.0, 1, 2])
    found, _ = register_points(source, target, torch.ones(7))
    torch.testing.assert_close(transform_points(found, source), target)
    torch.testing.assert_close(found[:3, :3] @ found[:3, :3].T, torch.eye(3))


@torch.no_grad()
def test_autocast_rounds_nothing():
    motion, source = random_motion().float(), random_points(50).float()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found, _ = register_points(source, transform_points(motion, source), torch.ones(50))
    torch.testing.assert_close(found, motion)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r'got \(5, 3\), \(5, 3\) and \(4,\)'):
        register_points(torch.zeros(5, 3), torch.zeros(5, 3), torch.ones(4))
