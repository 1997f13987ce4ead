"""Oracles: right predictions, sums by hand and invariances; tests/golden/test_pi3.py has the official loss."""

import math
from dataclasses import replace

import pytest
import torch

from pano3d.functional.geometry import transform_points
from pano3d.models import Pi3Criterion
from pano3d.models.criteria.pi3_criterion import camera_terms, depth_weights, normalise_target
from pano3d.structures import Reconstruction

SIZE = (28, 42)
TERMS = ('point', 'normal', 'translation', 'rotation', 'confidence')
RESTING_ANGLE = math.acos(1 - 1e-6)
"""What the clamped rotation error of right cameras amounts to."""


def rigid(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(*shape, 3, 3, generator=generator))
    matrix = torch.eye(4).repeat(*shape, 1, 1)
    matrix[..., :3, :3] = rotation * torch.det(rotation).sign()[..., None, None]
    matrix[..., :3, 3] = torch.randn(*shape, 3, generator=generator)
    return matrix


def scenes(batch=2, views=3):
    """Smooth surfaces with holes, seen by any cameras."""
    y, x = torch.meshgrid(torch.linspace(0, 3, SIZE[0]), torch.linspace(0, 3, SIZE[1]), indexing='ij')
    offsets = torch.arange(batch * views).view(batch, views, 1, 1)
    depth = 2 + 0.3 * torch.sin(x + offsets) + 0.2 * y
    depth[:, :, 5:9, 10:20] = 0
    intrinsics = torch.tensor([[40.0, 0, SIZE[1] / 2], [0, 38, SIZE[0] / 2], [0, 0, 1]]).expand(batch, views, 3, 3)
    return Reconstruction.from_depth(depth, intrinsics, rigid(0, batch, views))


def perfect(target, scale=1.0):
    """Another world frame and another scale, as the network is free to choose."""
    poses = rigid(9) @ target.camera_to_world
    poses[..., :3, 3] *= scale
    return {
        'local_points': torch.where(target.valid[..., None], target.local_points * scale, 1),
        'camera_to_world': poses,
        'confidence_logits': torch.zeros_like(target.depth),
    }


def noisy(target):
    generator = torch.Generator().manual_seed(1)
    prediction = perfect(target)
    prediction['local_points'] = prediction['local_points'] * (
        1 + 0.05 * torch.randn(prediction['local_points'].shape, generator=generator)
    )
    prediction['camera_to_world'] = prediction['camera_to_world'] @ rigid(4, *target.camera_to_world.shape[:2])
    return prediction


def wanting_gradients(prediction):
    return {name: value.clone().requires_grad_() for name, value in prediction.items()}


@pytest.mark.parametrize('scale', [1.0, 0.2, 7.0])
def test_perfect_prediction_of_any_frame_and_scale_costs_nothing(scale):
    target = scenes()
    terms = Pi3Criterion()(perfect(target, scale), target)
    assert tuple(terms) == TERMS
    smallest_angle = math.radians(1) ** 2 / (2 * math.radians(3))  # what angles below one degree cost
    resting = {'rotation': 0.1 * RESTING_ANGLE, 'normal': 4 * smallest_angle / (4 * max(SIZE))}
    assert terms['normal'].item() <= resting.pop('normal') * 1.001
    for name, value in terms.items():
        if name != 'normal':
            assert value.item() == pytest.approx(resting.get(name, 0), abs=1e-4), name


def test_frame_and_scale_of_the_target_do_not_matter():
    target, factor, move = scenes(), 2.5, rigid(5)
    cameras = move @ target.camera_to_world
    cameras[..., :3, 3] *= factor
    changed = replace(
        target,
        points=transform_points(move, target.points.flatten(0, 3)).view_as(target.points) * factor,
        local_points=target.local_points * factor,
        camera_to_world=cameras,
    )
    prediction = noisy(target)
    expected, found = (Pi3Criterion()(prediction, truth) for truth in (target, changed))
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-3, abs=1e-5), name


def test_order_of_views_does_not_matter_but_for_the_scale_of_the_target():
    """The target's unit is its mean distance from the first camera, which all terms but angles are measured in."""
    target, order = scenes(), [1, 0, 2]
    prediction = noisy(target)
    expected = Pi3Criterion()(prediction, target)
    found = Pi3Criterion()({name: value[:, order] for name, value in prediction.items()}, target[:, order])
    for name in ('normal', 'rotation', 'point'):  # the point term has depth over depth
        assert found[name].item() == pytest.approx(expected[name].item(), rel=1e-3), name


def test_normalised_scenes_start_at_the_first_camera_with_mean_distance_one():
    found = normalise_target(scenes())
    torch.testing.assert_close(found.camera_to_world[:, 0], torch.eye(4).expand(2, 4, 4), rtol=0, atol=1e-5)
    for scene in range(2):
        distances = found.points[scene][found.valid[scene]].norm(dim=-1)
        assert distances.mean().item() == pytest.approx(1, abs=1e-4)
    moved = transform_points(found.camera_to_world[..., None, :, :], found.local_points)
    torch.testing.assert_close(found.points[found.valid], moved[found.valid], rtol=1e-4, atol=1e-5)


def test_weights_are_bounded_by_a_tenth_of_the_mean_depth():
    target = scenes(batch=1, views=1)
    depth = torch.full((1, 1, *SIZE), 4.0)
    depth[..., 0, 0], depth[..., 0, 1] = 1e-3, 0
    target = Reconstruction.from_depth(depth, target.intrinsics, target.camera_to_world)
    weights = depth_weights(target)
    mean = (4 * (depth.numel() - 2) + 1e-3) / (depth.numel() - 1)
    assert weights[..., 1, 1].item() == pytest.approx(1 / 4, rel=1e-5)
    assert weights[..., 0, 0].item() == pytest.approx(1 / (0.1 * mean), rel=1e-4)


def test_point_term_by_hand():
    """Half of the pixels 10 % too far: the best scale fits the larger part, the rest pays 10 % of x / z, y / z, 1."""
    target = scenes(batch=1, views=1)
    prediction = perfect(target)
    rows = torch.zeros(1, 1, *SIZE, dtype=torch.bool)
    rows[:, :, 20:] = True
    prediction['local_points'] = prediction['local_points'] * torch.where(rows, 1.1, 1.0)[..., None]
    found = Pi3Criterion()(prediction, target)['point'].item()
    rays = target.local_points / target.depth[..., None]
    error = torch.where(rows[..., None], 0.1 * rays.abs(), 0.0)[target.valid].mean()
    assert found == pytest.approx(error.item(), rel=1e-3)


def test_camera_terms_by_hand():
    """Two cameras; the second is turned by 0.3 and moved by 0.5 along x: in both directions the same errors."""
    expected = torch.eye(4).repeat(1, 2, 1, 1)
    found = expected.clone()
    cos, sin = math.cos(0.3), math.sin(0.3)
    found[0, 1, :2, :2] = torch.tensor([[cos, -sin], [sin, cos]])
    translation, rotation = camera_terms(found, expected, torch.ones(1))
    assert (translation.item(), rotation.item()) == pytest.approx((0, 0.3), abs=1e-5)
    found = expected.clone()
    found[0, 1, 0, 3] = 0.25
    translation, _ = camera_terms(found, expected, torch.tensor([2.0]))
    assert translation.item() == pytest.approx(0.1 * (0.5 - 0.05) / 3)
    translation, _ = camera_terms(found, expected, torch.tensor([0.2]))
    assert translation.item() == pytest.approx(0.5 * 0.05**2 / 3)


def test_one_view_has_no_relative_camera():
    target = scenes(views=1)
    prediction = wanting_gradients(noisy(target))
    terms = Pi3Criterion()(prediction, target)
    assert (terms['translation'].item(), terms['rotation'].item()) == (0, 0)
    sum(terms.values()).backward()
    assert not prediction['camera_to_world'].grad.any()


def test_only_scenes_of_fine_surfaces_have_a_normal_term():
    target, criterion = scenes(), Pi3Criterion()
    prediction = noisy(target)
    alone = [
        criterion({name: value[b : b + 1] for name, value in prediction.items()}, target[b : b + 1])['normal'].item()
        for b in range(2)
    ]
    for chosen, expected in (
        ([True, True], sum(alone) / 2),
        ([True, False], alone[0]),
        ([False, True], alone[1]),
        ([False, False], 0),
    ):
        terms = criterion.compare(prediction, target, fine_surfaces=torch.tensor(chosen))
        assert terms['normal'].item() == pytest.approx(expected, rel=1e-4), chosen


def test_weights_scale_their_terms():
    target = scenes()
    prediction = noisy(target)
    one = Pi3Criterion(camera_weight=1.0, translation_weight=1.0, confidence_weight=1.0)(prediction, target)
    criterion = Pi3Criterion(
        point_weight=2.0, normal_weight=3.0, camera_weight=4.0, translation_weight=5.0, confidence_weight=6.0
    )
    found = criterion(prediction, target)
    for name, factor in zip(TERMS, (2, 3, 20, 4, 6), strict=True):
        assert one[name].item() > 0
        assert found[name].item() == pytest.approx(factor * one[name].item(), rel=1e-5), name
    assert Pi3Criterion(normal_weight=0.0)(prediction, target)['normal'].item() == 0


def test_confidence_says_which_pixels_are_right():
    """Right pixels should have a large logit, wrong pixels and the sky a small one."""
    target = scenes(batch=1, views=2)
    prediction = perfect(target)
    wrong = torch.zeros_like(target.valid)
    wrong[..., 20:, :] = True
    prediction['local_points'] = prediction['local_points'] * torch.where(wrong, 2.0, 1.0)[..., None]
    criterion = Pi3Criterion(confidence_weight=0.05)
    logits = torch.where(wrong, -2.0, 3.0)
    share = wrong[target.valid].float().mean().item()
    expected = share * math.log(1 + math.exp(-2)) + (1 - share) * math.log(1 + math.exp(-3))
    found = criterion(prediction | {'confidence_logits': logits}, target)['confidence'].item()
    assert found == pytest.approx(0.05 * expected, rel=1e-4)
    sky = ~target.valid
    found = criterion.compare(prediction | {'confidence_logits': logits}, target, sky=sky)['confidence'].item()
    assert found == pytest.approx(0.05 * (expected + math.log(1 + math.exp(3))), rel=1e-4)


def test_confidence_of_a_frozen_branch_cannot_be_trained():
    target = scenes()
    prediction = wanting_gradients(perfect(target))
    prediction['confidence_logits'] = prediction['confidence_logits'].detach()
    Pi3Criterion()(prediction, target)
    with pytest.raises(ValueError, match="leave 'confidence' out of its `frozen`"):
        Pi3Criterion(confidence_weight=0.05)(prediction, target)


def test_scenes_without_depth_do_not_count():
    target, criterion = scenes(), Pi3Criterion(confidence_weight=0.05)
    valid = target.valid.clone()
    valid[1] = False
    prediction = wanting_gradients(noisy(target))
    found = criterion(prediction, replace(target, valid=valid))
    expected = criterion({name: value[:1] for name, value in prediction.items()}, target[:1])
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-5), name
    sum(found.values()).backward()
    for value in prediction.values():
        assert value.grad[0].any()
        assert not value.grad[1].any()


def test_no_valid_pixel_gives_zero_and_zero_gradients():
    target = scenes()
    target = replace(target, valid=torch.zeros_like(target.valid), points=target.points * float('nan'))
    prediction = wanting_gradients(noisy(scenes()))
    terms = Pi3Criterion(confidence_weight=0.05)(prediction, target)
    assert tuple(terms) == TERMS
    assert all(value.item() == 0 for value in terms.values())
    sum(terms.values()).backward()
    assert all(value.grad is not None and not value.grad.any() for value in prediction.values())


def test_pixels_without_depth_reach_neither_value_nor_gradient():
    target = scenes()
    prediction = noisy(target)
    expected = Pi3Criterion()(prediction, target)
    points, local_points, holes = target.points.clone(), target.local_points.clone(), ~target.valid
    points[holes], local_points[holes] = float('nan'), float('nan')
    prediction = wanting_gradients(prediction)
    found = Pi3Criterion()(prediction, replace(target, points=points, local_points=local_points))
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-5, abs=1e-7), name
    sum(found.values()).backward()
    assert prediction['local_points'].grad.isfinite().all()
    assert not prediction['local_points'].grad[holes].any()


def test_target_is_left_alone():
    target = scenes()
    before = {name: getattr(target, name).clone() for name in ('points', 'local_points', 'camera_to_world')}
    Pi3Criterion()(noisy(target), target)
    assert all(torch.equal(getattr(target, name), value) for name, value in before.items())


def test_missing_entry_is_named():
    target = scenes()
    prediction = perfect(target)
    del prediction['camera_to_world']
    with pytest.raises(ValueError, match=r"needs \['camera_to_world'\] in the prediction"):
        Pi3Criterion()(prediction, target)
