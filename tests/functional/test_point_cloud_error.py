"""Point cloud errors against brute force, invariants and numbers worked out by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from pano3d.functional.point_cloud_error import estimate_normals, point_cloud_errors


def clouds(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = np.random.default_rng(seed)
    arrays = {
        'predicted': generator.normal(size=(60, 3)),
        'gt': generator.normal(size=(80, 3)),
        'predicted_normals': generator.normal(size=(60, 3)),
        'gt_normals': generator.normal(size=(80, 3)),
    }
    for name in ('predicted_normals', 'gt_normals'):
        arrays[name] /= np.linalg.norm(arrays[name], axis=1, keepdims=True)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


@pytest.mark.parametrize('seed', range(3))
def test_equals_brute_force(seed: int) -> None:
    given = clouds(seed)
    errors = point_cloud_errors(**given, ratio_distance=0.5)
    distance = torch.cdist(given['predicted'], given['gt'])
    to_gt, to_predicted = distance.min(1), distance.min(0)
    cosine = (given['predicted_normals'] @ given['gt_normals'].T).abs()
    expected = {
        'accuracy': to_gt.values.mean(),
        'accuracy_median': np.median(to_gt.values),
        'completion': to_predicted.values.mean(),
        'completion_median': np.median(to_predicted.values),
        'completion_ratio': (to_predicted.values < 0.5).double().mean(),
        'accuracy_normals': cosine[torch.arange(60), to_gt.indices].mean(),
        'accuracy_normals_median': np.median(cosine[torch.arange(60), to_gt.indices]),
        'completion_normals': cosine[to_predicted.indices, torch.arange(80)].mean(),
        'completion_normals_median': np.median(cosine[to_predicted.indices, torch.arange(80)]),
    }
    for name, value in dataclasses.asdict(errors).items():
        assert value == pytest.approx(float(expected[name]), abs=1e-12), name
    assert errors.normal_consistency == (errors.accuracy_normals + errors.completion_normals) / 2


def test_by_hand() -> None:
    predicted = torch.tensor([[0.0, 0, 0], [1, 0, 0], [5, 0, 0]])
    gt = torch.tensor([[0.0, 0, 0], [1, 0, 1]])
    errors = point_cloud_errors(predicted=predicted, gt=gt, ratio_distance=1.0)
    assert errors.accuracy == pytest.approx((0 + 1 + 17**0.5) / 3)
    assert errors.accuracy_median == 1
    assert errors.completion == pytest.approx(0.5)
    assert errors.completion_ratio == 0.5, 'the limit is strict'
    assert np.isnan(errors.normal_consistency)


def test_ground_truth_fed_back_is_exact() -> None:
    given = {name: points.float() for name, points in clouds().items()}
    errors = point_cloud_errors(
        predicted=given['gt'], gt=given['gt'], predicted_normals=-given['gt_normals'], gt_normals=given['gt_normals']
    )
    assert dataclasses.astuple(errors) == (0, 0, 0, 0, 1, 1, 1, 1, 1)
    normals = estimate_normals(given['gt'], neighbours=10)
    assert torch.equal(normals, estimate_normals(given['gt'], neighbours=10))


def test_order_of_points_and_sign_of_normals_do_not_matter() -> None:
    given = clouds()
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    permuted = given | {name: given[name][order] for name in ('predicted', 'predicted_normals')}
    permuted['gt_normals'] = -given['gt_normals']
    expected, found = point_cloud_errors(**given), point_cloud_errors(**permuted)
    assert dataclasses.astuple(found) == pytest.approx(dataclasses.astuple(expected), abs=1e-14)


def test_equally_near_points_in_any_order() -> None:
    """A grid whose points lie twice in one place, with other normals, and a prediction half-way between."""
    generator = torch.Generator().manual_seed(0)
    grid = torch.cartesian_prod(*[torch.arange(4.0)] * 3).repeat(2, 1)
    normals = torch.nn.functional.normalize(torch.randn(len(grid), 3, generator=generator).double(), dim=1)
    between = grid[:64] + 0.5
    choices = {'predicted_normals': normals[:64].flip(0), 'gt_normals': normals}
    expected = point_cloud_errors(predicted=between, gt=grid, **choices)
    order = torch.randperm(len(grid), generator=generator)
    found = point_cloud_errors(predicted=between, gt=grid[order], **{**choices, 'gt_normals': normals[order]})
    assert found.accuracy_normals == expected.accuracy_normals
    distance = torch.cdist(between, grid).double()
    cosine = (choices['predicted_normals'] @ normals.T).abs()
    nearest = distance <= distance.amin(1, keepdim=True) + 1e-6
    assert expected.accuracy_normals == pytest.approx(float((cosine * nearest).amax(1).mean()), abs=1e-12)
    back = point_cloud_errors(predicted=grid, gt=grid, predicted_normals=normals, gt_normals=normals)
    assert dataclasses.astuple(back) == (0, 0, 0, 0, 1, 1, 1, 1, 1)


def test_one_point_and_a_cloud() -> None:
    up = torch.tensor([[0.0, 0, 1]])
    gt = torch.tensor([[0.0, 0, 1], [0, 0, 2]])
    errors = point_cloud_errors(predicted=up, gt=gt, predicted_normals=up, gt_normals=up.repeat(2, 1))
    assert (errors.accuracy, errors.completion, errors.normal_consistency) == (0, 0.5, 1)


def test_one_frame_for_both_may_be_any() -> None:
    given = clouds()
    turn = torch.from_numpy(Rotation.random(random_state=0).as_matrix())
    moved = {name: points @ turn.T + (0 if 'normals' in name else 3) for name, points in given.items()}
    expected, found = point_cloud_errors(**given), point_cloud_errors(**moved)
    assert dataclasses.astuple(found) == pytest.approx(dataclasses.astuple(expected), abs=1e-12)


def test_normals_of_planes_and_spheres() -> None:
    generator = np.random.default_rng(0)
    normal = np.array([2.0, -1, 2]) / 3
    plane = generator.normal(size=(300, 3))
    plane -= (plane @ normal)[:, None] * normal
    found = estimate_normals(torch.from_numpy(plane + 5)).numpy()
    np.testing.assert_allclose(np.abs(found @ normal), 1, atol=1e-12)

    sphere = generator.normal(size=(20000, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    cosine = np.abs((estimate_normals(torch.from_numpy(sphere)).numpy() * sphere).sum(1))
    assert cosine.min() > 0.99


def test_normals_do_not_depend_on_how_many_are_estimated_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    points = clouds()['gt']
    expected = estimate_normals(points, neighbours=10)
    monkeypatch.setattr('pano3d.functional.point_cloud_error.CHUNK', 7)
    torch.testing.assert_close(estimate_normals(points, neighbours=10), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        ({'predicted': torch.zeros(0, 3)}, r'`predicted` must have shape \(N, 3\) with N > 0'),
        ({'gt': torch.full((80, 3), torch.nan)}, '`gt` must be finite; 80 of 80'),
        ({'predicted_normals': None}, 'must be given together'),
        ({'gt_normals': torch.zeros(79, 3)}, r'`gt_normals` must have the shape .*\(80, 3\), got \(79, 3\)'),
        ({'gt_normals': torch.full((80, 3), 2.0)}, '`gt_normals` must be unit vectors; 80 of 80'),
    ],
)
def test_refuses(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        point_cloud_errors(**(clouds() | changed))


def test_refuses_to_estimate_normals_from_two_points() -> None:
    for points, neighbours in ((torch.rand(2, 3), 30), (torch.rand(9, 3), 2)):
        with pytest.raises(ValueError, match='at least 3 neighbours'):
            estimate_normals(points, neighbours=neighbours)
