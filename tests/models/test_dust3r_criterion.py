"""Oracles: right predictions, sums by hand and invariances; tests/golden/test_dust3r.py has the official loss."""

import math
from dataclasses import replace

import pytest
import torch

from pano3d.functional.geometry import transform_points
from pano3d.models import DUSt3RCriterion
from pano3d.models.criteria.dust3r_criterion import pair_targets
from pano3d.structures import Reconstruction

SIZE = (6, 8)


def rigid(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(count, 3, 3, generator=generator))
    matrix = torch.eye(4).repeat(count, 1, 1)
    matrix[:, :3, :3] = rotation * torch.det(rotation).sign()[:, None, None]
    matrix[:, :3, 3] = torch.randn(count, 3, generator=generator)
    return matrix


def scenes(batch=2, views=3):
    """Depth with holes, seen by any cameras."""
    generator = torch.Generator().manual_seed(0)
    depth = 2 + torch.rand(batch, views, *SIZE, generator=generator)
    depth[:, :, 2, 3:6] = 0
    intrinsics = torch.tensor([[9.0, 0, 4], [0, 9, 3], [0, 0, 1]]).expand(batch, views, 3, 3)
    return Reconstruction.from_depth(depth, intrinsics, rigid(batch * views).view(batch, views, 4, 4))


def perfect(target, confidence=3.0):
    points, valid = pair_targets(target)
    return {'pair_points': points.clone(), 'pair_confidence': torch.full(valid.shape, confidence)}


def test_targets_are_in_the_frame_of_the_first_camera_of_each_pair():
    target = scenes()
    points, valid = pair_targets(target)
    assert points.shape == (2, 4, 2, *SIZE, 3)
    pairs = [(0, 1), (0, 2), (1, 0), (2, 0)]
    world_to_camera = torch.linalg.inv(target.camera_to_world)
    for pair, (first, second) in enumerate(pairs):
        known = target.valid[:, first]
        torch.testing.assert_close(points[:, pair, 0][known], target.local_points[:, first][known])
        moved = transform_points(world_to_camera[:, first, None], target.points[:, second])
        torch.testing.assert_close(points[:, pair, 1], moved, rtol=1e-4, atol=1e-5)
        assert torch.equal(valid[:, pair], target.valid[:, [first, second]])


def test_perfect_prediction_in_any_unit_pays_for_its_confidence_alone():
    target = scenes()
    prediction = perfect(target)
    prediction['pair_points'] *= torch.tensor([0.1, 1.0, 5.0, 20.0]).view(4, 1, 1, 1, 1)
    terms = DUSt3RCriterion()(prediction, target)
    assert tuple(terms) == ('first_points', 'second_points')
    for value in terms.values():
        assert value.item() == pytest.approx(-0.2 * math.log(3), abs=1e-5)


def test_frame_and_unit_of_the_target_do_not_matter():
    target = scenes()
    prediction = perfect(target)
    prediction['pair_points'] += 0.3 * torch.randn(prediction['pair_points'].shape)
    expected = DUSt3RCriterion()(prediction, target)
    move, factor = rigid(1, seed=5)[0], 2.5
    cameras = move @ target.camera_to_world
    cameras[..., :3, 3] *= factor
    changed = replace(target, points=transform_points(move, target.points) * factor, camera_to_world=cameras)
    found = DUSt3RCriterion()(prediction, changed)
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-4), name


def test_terms_by_hand():
    """One pair of two pixels each: mean distances 2 (predicted) and 1 (true)."""
    points = torch.tensor([[2.0, 0, 0], [0, 2.0, 0], [0, 0, 2.0], [math.nan] * 3]).view(1, 2, 1, 2, 3)
    target = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0], [9.0, 9, 9]]).view(1, 2, 1, 2, 3)
    valid = torch.tensor([True, True, True, False]).view(1, 2, 1, 2)
    confidence = torch.tensor([2.0, 3.0, 4.0, 5.0]).view(1, 2, 1, 2)
    terms = DUSt3RCriterion(confidence_alpha=0.5).compare(points, confidence, target, valid)
    first = (0 + 3 * math.sqrt(2) - 0.5 * (math.log(2) + math.log(3))) / 2
    assert terms['first_points'].item() == pytest.approx(first, rel=1e-5)
    assert terms['second_points'].item() == pytest.approx(4 * math.sqrt(2) - 0.5 * math.log(4), rel=1e-5)


def test_each_pair_has_its_own_unit_and_each_pixel_the_same_weight():
    """Pixels are averaged over all pairs together, so a pair with few valid ones counts little."""
    target = scenes(batch=1)
    prediction = perfect(target, confidence=1.0)
    valid = target.valid.clone()
    valid[:, 1] = False
    valid[:, 1, 0, 0] = True
    target = replace(target, valid=valid)
    prediction['pair_points'][:, 0, 1] += 1.0  # view 1 of pair (0, 1): one valid pixel
    points, known = pair_targets(target)
    loss = DUSt3RCriterion()(prediction, target)['second_points'].item()
    unit = points[0, 0][known[0, 0]].norm(dim=-1).mean()
    predicted = prediction['pair_points'][0, 0]
    ours = predicted / predicted[known[0, 0]].norm(dim=-1).mean()
    error = (ours - points[0, 0] / unit)[1, 0, 0].norm()
    assert loss == pytest.approx((error / known[0, :, 1].sum()).item(), rel=1e-4)


def test_no_valid_pixel_costs_nothing_and_reaches_the_prediction():
    target = scenes()
    target = replace(target, valid=torch.zeros_like(target.valid))
    prediction = {name: value.requires_grad_() for name, value in perfect(target).items()}
    terms = DUSt3RCriterion()(prediction, target)
    assert [value.item() for value in terms.values()] == [0, 0]
    sum(terms.values()).backward()
    assert all(value.grad is not None and not value.grad.any() for value in prediction.values())


def test_a_pair_without_valid_pixels_leaves_finite_gradients():
    target = scenes()
    valid = target.valid.clone()
    valid[0] = False
    target = replace(target, valid=valid, points=torch.where(valid[..., None], target.points, torch.nan))
    prediction = {name: value.requires_grad_() for name, value in perfect(scenes()).items()}
    sum(DUSt3RCriterion()(prediction, target).values()).backward()
    assert all(value.grad.isfinite().all() for value in prediction.values())


def test_what_does_not_fit_is_refused():
    target = scenes()
    prediction = perfect(target)
    with pytest.raises(ValueError, match=r"needs \['pair_confidence'\] in the prediction, got \['pair_points'\]"):
        DUSt3RCriterion()({'pair_points': prediction['pair_points']}, target)
    with pytest.raises(ValueError, match='for 2 views'):
        DUSt3RCriterion()(prediction, target[:, :2])
    with pytest.raises(ValueError, match='two views or more'):
        DUSt3RCriterion()(prediction, target[:, :1])
