"""Oracles: right predictions, sums by hand and invariances; tests/golden/test_must3r.py has the official loss."""

import math
from dataclasses import replace

import pytest
import torch

from pano3d.functional.focal import pinhole_intrinsics
from pano3d.functional.geometry import invert_rigid, transform_points
from pano3d.models import MUSt3RCriterion
from pano3d.structures import Reconstruction

SIZE = (6, 8)
TERMS = ('points', 'local_points')


def rigid(seed, count=1):
    generator = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(count, 3, 3, generator=generator))
    matrix = torch.eye(4).repeat(count, 1, 1)
    matrix[:, :3, :3] = rotation * torch.det(rotation).sign()[:, None, None]
    matrix[:, :3, 3] = torch.randn(count, 3, generator=generator)
    return matrix


def scenes(batch=2, views=3):
    depth = 2 + torch.rand(batch, views, *SIZE, generator=torch.Generator().manual_seed(0))
    depth[:, :, 1:3, 2:5] = 0
    intrinsics = pinhole_intrinsics(torch.full((batch, views), 9.0), SIZE)
    return Reconstruction.from_depth(depth, intrinsics, rigid(0, batch * views).view(batch, views, 4, 4))


def perfect(target, confidence=3.0):
    world_to_first = invert_rigid(target.camera_to_world[:, 0])[:, None, None]
    return {
        'points': transform_points(world_to_first, target.points),
        'local_points': target.local_points.clone(),
        'confidence': torch.full(target.valid.shape, confidence),
    }


def scaled(prediction, factor):
    return {name: value if name == 'confidence' else value * factor for name, value in prediction.items()}


def wanting_gradients(prediction):
    return {name: value.clone().requires_grad_() for name, value in prediction.items()}


@pytest.mark.parametrize('loss_in_log', [False, True])
def test_perfect_prediction_pays_for_its_confidence_alone(loss_in_log):
    target = scenes()
    terms = MUSt3RCriterion(loss_in_log=loss_in_log)(perfect(target), target)
    assert tuple(terms) == TERMS
    for value in terms.values():
        assert value.item() == pytest.approx(-0.2 * math.log(3.0), abs=1e-4)


def test_scale_counts_in_metres_only():
    target = scenes()
    right, large = perfect(target), scaled(perfect(target), 2.0)
    free, metric = MUSt3RCriterion(metric_scale=False), MUSt3RCriterion(metric_scale=True)
    for name in TERMS:
        assert free(large, target)[name].item() == pytest.approx(free(right, target)[name].item(), abs=1e-4)
        assert metric(large, target)[name] > metric(right, target)[name] + 0.1


def test_frame_of_the_target_does_not_matter():
    target = scenes()
    prediction = {name: value + 0.1 for name, value in perfect(target).items()}
    move = rigid(5)[0]
    changed = replace(
        target, points=transform_points(move, target.points), camera_to_world=move @ target.camera_to_world
    )
    expected = MUSt3RCriterion()(prediction, target)
    found = MUSt3RCriterion()(prediction, changed)
    for name in TERMS:
        assert found[name].item() == pytest.approx(expected[name].item(), rel=1e-3)


def one_pixel(points, local_points, confidence):
    shape = (1, 1, 1, 1, 3)
    return {
        'points': torch.tensor(points).view(shape),
        'local_points': torch.tensor(local_points).view(shape),
        'confidence': torch.full((1, 1, 1, 1), confidence),
    }


def test_terms_by_hand():
    """One pixel at distance 2, so all is halved: lengths 1 and 3 / 2 along one axis; ln 2 and ln 2.5 in log space."""
    truth = one_pixel([0.0, 0, 2], [0.0, 0, 2], 1.0)
    found = one_pixel([0.0, 0, 3], [0.0, 4, 0], 2.0)
    inputs = found, truth['points'], truth['local_points'], torch.ones(1, 1, 1, 1, dtype=torch.bool)
    metric, price = torch.tensor([True]), -0.2 * math.log(2)
    terms = MUSt3RCriterion(loss_in_log=False).compare(*inputs, metric=metric)
    assert terms['points'].item() == pytest.approx(2 * 0.5 + price)
    assert terms['local_points'].item() == pytest.approx(2 * math.sqrt(5) + price)
    terms = MUSt3RCriterion().compare(*inputs, metric=metric)
    assert terms['points'].item() == pytest.approx(2 * math.log(2.5 / 2) + price)
    assert terms['local_points'].item() == pytest.approx(2 * math.hypot(math.log(2), math.log(3)) + price)
    terms = MUSt3RCriterion(loss_in_log=False).compare(*inputs, metric=~metric)  # its own distance is 3
    assert terms['points'].item() == pytest.approx(price)
    assert terms['local_points'].item() == pytest.approx(2 * math.hypot(1, 4 / 3) + price)


def test_sky_counts_with_a_constant():
    """Of the sky only what has no depth: 3 of 4 pixels valid and right, confidence 2, one of the sky with 5."""
    target = scenes(batch=1, views=1)
    truth = perfect(target)
    valid = torch.zeros_like(target.valid)
    valid[0, 0, 0, :3] = True
    sky = torch.zeros_like(valid)
    sky[0, 0, 0, 2:4] = True
    prediction = truth | {'confidence': torch.where(valid, 2.0, 5.0)}
    terms = MUSt3RCriterion(sky_value=7.0).compare(
        prediction, truth['points'], truth['local_points'], valid, metric=torch.tensor([False]), sky=sky
    )
    expected = (5 * 7 - 0.2 * (3 * math.log(2) + math.log(5))) / 4
    assert terms['points'].item() == pytest.approx(expected, rel=1e-5)
    assert terms['local_points'].item() == pytest.approx(expected, rel=1e-5)


def test_pass_into_the_memory_counts_too():
    target = scenes()
    prediction = perfect(target)
    views = torch.tensor([0, 2])
    first = {f'update_{name}': value[:, views] + 0.2 for name, value in prediction.items()}
    terms = MUSt3RCriterion()(prediction | first | {'update_views': views}, target)
    rendered = MUSt3RCriterion()(prediction, target)
    part = Reconstruction(**{name: getattr(target, name)[:, views] for name in target.__dataclass_fields__})
    alone = MUSt3RCriterion()({name.removeprefix('update_'): value for name, value in first.items()}, part)
    assert set(terms) == {*TERMS, 'update_points', 'update_local_points'}
    for name in TERMS:
        assert terms[name].item() == pytest.approx(rendered[name].item())
        assert terms[f'update_{name}'].item() == pytest.approx(alone[name].item())
        assert terms[f'update_{name}'] > terms[name] + 0.05


@pytest.mark.parametrize('metric_scale', [False, True])
def test_scenes_without_depth_give_zero_and_zero_gradients(metric_scale):
    target = scenes(batch=1)
    nothing = torch.zeros_like(target.valid)
    target = replace(
        target, valid=nothing, points=target.points * math.nan, local_points=target.local_points * math.nan
    )
    prediction = wanting_gradients(perfect(scenes(batch=1)))
    terms = MUSt3RCriterion(metric_scale=metric_scale)(prediction, target)
    assert all(value.item() == 0 for value in terms.values())
    sum(terms.values()).backward()
    for name, value in prediction.items():
        assert value.grad is not None, name
        assert not value.grad.any(), name


@pytest.mark.parametrize('metric_scale', [False, True])
def test_pixels_without_depth_reach_neither_value_nor_gradient(metric_scale):
    target = scenes()
    criterion = MUSt3RCriterion(metric_scale=metric_scale)
    expected = criterion(perfect(target), target)
    holes = ~target.valid
    points, local_points = target.points.clone(), target.local_points.clone()
    points[holes], local_points[holes] = math.nan, math.nan
    prediction = {
        name: value + 100 * holes.view(*holes.shape, *[1] * (value.ndim - 4)) for name, value in perfect(target).items()
    }
    prediction = wanting_gradients(prediction)
    found = criterion(prediction, replace(target, points=points, local_points=local_points))
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-5, abs=1e-6), name
    sum(found.values()).backward()
    for name, value in prediction.items():
        assert torch.isfinite(value.grad).all(), name
        assert not value.grad[holes].any(), name


def test_target_is_left_alone():
    target = scenes()
    before = {name: getattr(target, name).clone() for name in ('points', 'local_points', 'camera_to_world')}
    MUSt3RCriterion()(perfect(target), target)
    assert all(torch.equal(getattr(target, name), value) for name, value in before.items())


def test_missing_entries_are_named():
    target = scenes()
    prediction = perfect(target)
    with pytest.raises(ValueError, match=r"needs \['local_points'\] in the prediction"):
        MUSt3RCriterion()({name: value for name, value in prediction.items() if name != 'local_points'}, target)
    with pytest.raises(ValueError, match=r"needs \['update_points', 'update_local_points', 'update_confidence'\]"):
        MUSt3RCriterion()(prediction | {'update_views': torch.tensor([0])}, target)
