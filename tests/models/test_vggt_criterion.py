"""Oracles: right predictions, sums by hand and invariances; tests/golden/test_vggt.py has the official loss."""

import math
from dataclasses import replace

import pytest
import torch

from pano3d.functional.geometry import invert_rigid, transform_points
from pano3d.functional.pose_encoding import encode_cameras
from pano3d.models import VGGTCriterion
from pano3d.models.criteria.vggt_criterion import normalise_scene
from pano3d.structures import Reconstruction

SIZE = (28, 42)
DENSE = ('depth_confidence', 'depth_regression', 'depth_gradient')
POINTS = ('point_confidence', 'point_regression', 'point_gradient')


def rigid(seed, count=1):
    generator = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(count, 3, 3, generator=generator))
    matrix = torch.eye(4).repeat(count, 1, 1)
    matrix[:, :3, :3] = rotation * torch.det(rotation).sign()[:, None, None]
    matrix[:, :3, 3] = torch.randn(count, 3, generator=generator)
    return matrix


def scenes(batch=2, views=3):
    """Smooth surfaces with holes, seen by any cameras."""
    y, x = torch.meshgrid(torch.linspace(0, 3, SIZE[0]), torch.linspace(0, 3, SIZE[1]), indexing='ij')
    offsets = torch.arange(batch * views).view(batch, views, 1, 1)
    depth = 2 + 0.3 * torch.sin(x + offsets) + 0.2 * y
    depth[:, :, 5:9, 10:20] = 0
    intrinsics = torch.tensor([[40.0, 0, SIZE[1] / 2], [0, 38, SIZE[0] / 2], [0, 0, 1]]).expand(batch, views, 3, 3)
    return Reconstruction.from_depth(depth, intrinsics, rigid(0, batch * views).view(batch, views, 4, 4))


def perfect(target, confidence=3.0, iterations=3):
    truth = normalise_scene(target)
    cameras = encode_cameras(invert_rigid(truth.camera_to_world), truth.intrinsics, SIZE)
    return {
        'pose_encodings': cameras.repeat(iterations, 1, 1, 1),
        'depth': truth.depth.clone(),
        'depth_confidence': torch.full_like(truth.depth, confidence),
        'points': truth.points.clone(),
        'point_confidence': torch.full_like(truth.depth, confidence),
    }


def wanting_gradients(prediction):
    return {name: value.clone().requires_grad_() for name, value in prediction.items()}


def test_normalised_scenes_start_at_the_first_camera_with_mean_distance_one():
    found = normalise_scene(scenes())
    torch.testing.assert_close(found.camera_to_world[:, 0], torch.eye(4).expand(2, 4, 4), rtol=0, atol=1e-5)
    for scene in range(2):
        distances = found.points[scene][found.valid[scene]].norm(dim=-1)
        assert distances.mean().item() == pytest.approx(1, abs=1e-4)
    moved = transform_points(found.camera_to_world[..., None, :, :], found.local_points)
    torch.testing.assert_close(found.points[found.valid], moved[found.valid], rtol=1e-4, atol=1e-5)


def test_perfect_prediction_pays_for_its_confidence_alone():
    target = scenes()
    terms = VGGTCriterion(point_weight=1.0)(perfect(target), target)
    assert tuple(terms) == ('camera', *DENSE, *POINTS)
    for name, value in terms.items():
        expected = -0.2 * math.log(3.0) if name.endswith('confidence') else 0
        assert value.item() == pytest.approx(expected, abs=1e-4), name


def test_frame_and_scale_of_the_target_do_not_matter():
    target = scenes()
    prediction = perfect(target)
    prediction['depth'] = prediction['depth'] + 0.1
    prediction['pose_encodings'] = prediction['pose_encodings'] + 0.05
    expected = VGGTCriterion(point_weight=1.0)(prediction, target)
    move, factor = rigid(5), 2.5
    cameras = move @ target.camera_to_world
    cameras[..., :3, 3] *= factor
    changed = replace(
        target,
        points=transform_points(move, target.points.flatten(0, 3)[None])[0].view_as(target.points) * factor,
        local_points=target.local_points * factor,
        camera_to_world=cameras,
    )
    found = VGGTCriterion(point_weight=1.0)(prediction, changed)
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-3, abs=1e-4), name


def test_camera_term_by_hand():
    """Two refinements, the first off by known amounts: 0.6 * (0.3 + 0.2 + 0.5 * 0.4) / 2, weighted by 5."""
    target = scenes()
    prediction = perfect(target, iterations=2)
    prediction['pose_encodings'][0] += torch.tensor([0.3] * 3 + [0.2] * 4 + [0.4] * 2)
    found = VGGTCriterion()(prediction, target)['camera'].item()
    assert found == pytest.approx(5 * 0.6 * (0.3 + 0.2 + 0.5 * 0.4) / 2, rel=1e-4)


def test_scenes_whose_first_view_is_empty_have_no_camera_term():
    target = scenes()
    prediction = perfect(target)
    prediction['pose_encodings'][:, 1] += 7
    valid = target.valid.clone()
    valid[1, 0] = False
    valid[1, 0].view(-1)[:100] = True  # 100 are not more than 100
    truth = replace(normalise_scene(target), valid=valid)
    assert VGGTCriterion().compare(prediction, truth)['camera'].item() == pytest.approx(0, abs=1e-4)
    valid[1, 0].view(-1)[100] = True
    assert VGGTCriterion().compare(prediction, truth)['camera'].item() > 1


def test_depth_terms_by_hand():
    """A constant error has no gradient error; with one value there is nothing below the quantile to average."""
    target = scenes()
    prediction = perfect(target, confidence=2.0)
    prediction['depth'] += 0.25
    terms = VGGTCriterion()(prediction, target)
    assert terms['depth_regression'].item() == pytest.approx(0.25, abs=1e-4)
    assert terms['depth_confidence'].item() == pytest.approx(0.5 - 0.2 * math.log(2), abs=1e-4)
    assert terms['depth_gradient'].item() == pytest.approx(0, abs=1e-5)


def test_largest_values_are_dropped():
    """Of 1301 sorted values 0 .. 1300 the rank 0.98 * 1300 = 1274 is the first that goes."""
    criterion = VGGTCriterion()
    values = torch.arange(1301.0)[torch.randperm(1301)]
    assert criterion._mean_of_smallest(values).item() == pytest.approx(1273 / 2)
    few = torch.arange(1000.0)
    assert criterion._mean_of_smallest(few).item() == pytest.approx(999 / 2)
    assert criterion._mean_of_smallest(torch.arange(1010.0)).item() == pytest.approx(1009 / 2)  # only 989 would remain


def test_quantile_agrees_with_torch():
    values = torch.randn(4321).abs()
    kept = values[values < torch.quantile(values, 0.98, interpolation='nearest')]
    assert VGGTCriterion()._mean_of_smallest(values).item() == pytest.approx(kept.mean().item(), rel=1e-6)


def test_weights_scale_their_terms():
    target = scenes()
    prediction = {name: value + 0.1 for name, value in perfect(target).items()}
    single = VGGTCriterion(camera_weight=1.0, depth_weight=1.0, point_weight=1.0)(prediction, target)
    weighted = VGGTCriterion(camera_weight=2.0, depth_weight=3.0, point_weight=4.0)(prediction, target)
    for name, value in single.items():
        factor = {'camera': 2, 'depth': 3, 'point': 4}[name.partition('_')[0]]
        assert weighted[name].item() == pytest.approx(factor * value.item(), rel=1e-5), name


@pytest.mark.parametrize('valid_pixels', [0, 99])
def test_scenes_without_depth_give_zero_and_zero_gradients(valid_pixels):
    target = scenes(batch=1)
    valid = torch.zeros_like(target.valid)
    valid.view(-1)[:valid_pixels] = True
    target = replace(target, valid=valid, points=target.points * float('nan'), local_points=target.local_points * 0)
    prediction = wanting_gradients({name: value + 0.1 for name, value in perfect(scenes(batch=1)).items()})
    terms = VGGTCriterion(point_weight=1.0)(prediction, target)
    assert all(value.item() == 0 for value in terms.values())
    sum(terms.values()).backward()
    for name, value in prediction.items():
        assert value.grad is not None, name
        assert not value.grad.any(), name


def test_pixels_without_depth_reach_neither_value_nor_gradient():
    target = scenes()
    expected = VGGTCriterion(point_weight=1.0)(perfect(target), target)
    holes = ~target.valid
    points, local_points = target.points.clone(), target.local_points.clone()
    points[holes], local_points[holes] = float('nan'), float('nan')
    prediction = wanting_gradients(perfect(target))
    found = VGGTCriterion(point_weight=1.0)(prediction, replace(target, points=points, local_points=local_points))
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-5, abs=1e-6), name
    sum(found.values()).backward()
    for name in ('depth', 'depth_confidence', 'points', 'point_confidence'):
        assert torch.isfinite(prediction[name].grad).all(), name
        assert not prediction[name].grad[holes].any(), name


def test_target_is_left_alone():
    target = scenes()
    before = {name: getattr(target, name).clone() for name in ('points', 'local_points', 'camera_to_world')}
    VGGTCriterion(point_weight=1.0)(perfect(target), target)
    assert all(torch.equal(getattr(target, name), value) for name, value in before.items())


def test_missing_head_is_named():
    target = scenes()
    prediction = {name: value for name, value in perfect(target).items() if not name.startswith('point')}
    VGGTCriterion()(prediction, target)
    with pytest.raises(ValueError, match=r"needs \['points', 'point_confidence'\] .* add the head"):
        VGGTCriterion(point_weight=1.0)(prediction, target)
