"""Pose errors against plain loops with scipy, invariants and numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from pano3d.functional.pose_error import PairErrors, pair_errors, pose_counts, pose_scores, trajectory_errors


def cameras(seed: int, views: int = 5) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    poses = np.tile(np.eye(4), (views, 1, 1))
    poses[:, :3, :3] = Rotation.random(views, random_state=seed).as_matrix()
    poses[:, :3, 3] = generator.normal(size=(views, 3))
    return torch.from_numpy(poses)


def disturbed(poses: torch.Tensor, seed: int, amount: float = 0.2) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    noisy = poses.numpy().copy()
    turns = Rotation.from_rotvec(amount * generator.normal(size=(len(noisy), 3))).as_matrix()
    noisy[:, :3, :3] = noisy[:, :3, :3] @ turns
    noisy[:, :3, 3] += amount * generator.normal(size=(len(noisy), 3))
    return torch.from_numpy(noisy)


def in_other_world(poses: torch.Tensor, seed: int, scale: float) -> torch.Tensor:
    """The same cameras after a Sim(3) of their world."""
    generator = np.random.default_rng(seed)
    turn, moved = Rotation.random(random_state=seed).as_matrix(), poses.numpy().copy()
    moved[:, :3, :3] = turn @ moved[:, :3, :3]
    moved[:, :3, 3] = scale * moved[:, :3, 3] @ turn.T + generator.normal(size=3)
    return torch.from_numpy(moved)


def relative(poses: np.ndarray, i: int, j: int) -> np.ndarray:
    """Camera i in the axes of camera j."""
    matrix: np.ndarray = np.linalg.inv(poses[j]) @ poses[i]
    return matrix


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('direction', ['forward', 'reversed', 'both'])
def test_pairs_equal_plain_loops(seed: int, direction: Any) -> None:
    gt = cameras(seed)
    predicted = in_other_world(disturbed(gt, seed + 10), seed + 20, 3.0)
    errors = pair_errors(predicted=predicted, gt=gt, direction=direction)
    pairs = [(i, j) for i in range(5) for j in range(i + 1, 5)]
    backward = [(j, i) for i, j in pairs]
    pairs = {'forward': pairs, 'reversed': backward, 'both': pairs + backward}[direction]
    assert len(errors.rotation) == len(pairs)
    for n, (i, j) in enumerate(pairs):
        a, b = relative(predicted.numpy(), i, j), relative(gt.numpy(), i, j)
        angle = np.rad2deg(Rotation.from_matrix(a[:3, :3] @ b[:3, :3].T).magnitude())
        cosine = abs(a[:3, 3] @ b[:3, 3]) / np.linalg.norm(a[:3, 3]) / np.linalg.norm(b[:3, 3])
        assert float(errors.rotation[n]) == pytest.approx(angle, abs=1e-9)
        assert float(errors.translation[n]) == pytest.approx(np.rad2deg(np.arccos(cosine)), abs=1e-6)


def test_known_angles() -> None:
    gt = torch.eye(4).repeat(2, 1, 1)
    gt[1, :3, 3] = torch.tensor([1.0, 0, 0])
    for angle in (0.0, 1e-7, 30.0, 90.0, 179.0, 180.0):
        predicted = gt.double().clone()
        turn = Rotation.from_euler('z', angle, degrees=True).as_matrix()
        predicted[:, :3, 3] = gt[:, :3, 3].double() @ torch.from_numpy(turn).T  # the centres turn about the first
        predicted[1, :3, :3] = torch.from_numpy(turn)
        errors = pair_errors(predicted=predicted, gt=gt, direction='reversed')
        assert float(errors.rotation) == pytest.approx(angle, abs=1e-12, rel=1e-9)
        assert float(errors.translation) == pytest.approx(min(angle, 180 - angle), abs=1e-12, rel=1e-9)


def test_world_and_scale_of_the_prediction_do_not_matter() -> None:
    gt = cameras(0)
    predicted = disturbed(gt, 1)
    other = in_other_world(predicted, 2, 0.01)
    expected, found = (pair_errors(predicted=poses, gt=gt) for poses in (predicted, other))
    torch.testing.assert_close(found.rotation, expected.rotation, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.translation, expected.translation, rtol=0, atol=1e-9)
    expected, found = (trajectory_errors(predicted=poses, gt=gt) for poses in (predicted, other))
    assert found.absolute == pytest.approx(expected.absolute, abs=1e-10)
    assert found.relative_translation == pytest.approx(expected.relative_translation, abs=1e-10)
    assert found.relative_rotation == pytest.approx(expected.relative_rotation, abs=1e-9)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_ground_truth_fed_back_is_exact(dtype: torch.dtype) -> None:
    gt = cameras(0).to(dtype)
    errors = pair_errors(predicted=gt, gt=gt)
    assert torch.equal(errors.rotation, torch.zeros(10).double())
    assert torch.equal(errors.translation, torch.zeros(10).double())
    for bins in ('degree', 'histc'):
        counts = pose_counts(errors, thresholds=(1, 5, 30), bins=bins)
        assert torch.equal(pose_scores(counts), torch.ones(3, 3).double())
    trajectory = trajectory_errors(predicted=gt, gt=gt)
    assert (trajectory.absolute, trajectory.relative_translation, trajectory.relative_rotation) == (0, 0, 0)


def test_views_may_be_permuted() -> None:
    gt = cameras(0)
    predicted = disturbed(gt, 1)
    order = torch.tensor([3, 0, 4, 2, 1])
    expected = pose_counts(pair_errors(predicted=predicted, gt=gt, direction='both'), thresholds=(5, 10, 30))
    found = pose_counts(pair_errors(predicted=predicted[order], gt=gt[order], direction='both'), thresholds=(5, 10, 30))
    torch.testing.assert_close(pose_scores(found), pose_scores(expected))
    ate = trajectory_errors(predicted=predicted, gt=gt).absolute
    assert trajectory_errors(predicted=predicted[order], gt=gt[order]).absolute == pytest.approx(ate, abs=1e-12)


def test_auc_is_the_mean_of_the_cumulated_histogram() -> None:
    generator = np.random.default_rng(0)
    largest = np.concatenate([generator.uniform(0, 40, 200), [0.0, 5.0, 10.0, 10.0, 30.0, 180.0]])
    errors = PairErrors(torch.from_numpy(largest), torch.zeros(len(largest)).double())
    thresholds = (5, 10, 30)
    for bins in ('degree', 'histc'):
        found = pose_scores(pose_counts(errors, thresholds=thresholds, bins=bins))[2]
        for t, auc in zip(thresholds, found.tolist(), strict=True):
            edges = np.arange(t + 1) if bins == 'degree' else np.linspace(0, t, t + 2)
            histogram = np.histogram(largest, bins=edges)[0] / len(largest)
            assert auc == pytest.approx(np.cumsum(histogram).mean(), abs=1e-12)


def test_scores_by_hand() -> None:
    errors = PairErrors(torch.tensor([0.5, 4.9, 5.0, 60.0]).double(), torch.tensor([2.0, 1.0, 0.0, 0.0]).double())
    (rra,), (rta,), (auc,) = pose_scores(pose_counts(errors, thresholds=(5,))).tolist()
    assert rra == 0.5, 'the limit is strict'
    assert rta == 1.0
    # errors of 2, 4.9, 5 (in the last, closed bin) and 60: in 3, 1, 1 and 0 of five steps
    assert auc == pytest.approx((3 + 1 + 1) / 5 / 4)


def test_counts_add_up() -> None:
    parts = [pair_errors(predicted=disturbed(cameras(s), s), gt=cameras(s)) for s in range(3)]
    together = PairErrors(torch.cat([p.rotation for p in parts]), torch.cat([p.translation for p in parts]))
    counts = [pose_counts(p, thresholds=(5, 15, 30)) for p in parts]
    torch.testing.assert_close(
        pose_scores(counts[0] + counts[1] + counts[2]), pose_scores(pose_counts(together, thresholds=(5, 15, 30)))
    )


def test_cameras_that_share_a_centre_have_no_direction() -> None:
    gt = cameras(0, views=3)
    gt[1, :3, 3] = gt[0, :3, 3]
    errors = pair_errors(predicted=disturbed(gt, 1), gt=gt)
    assert errors.translation.isnan().tolist() == [True, False, False]
    rotation = float(errors.rotation[0])
    counts = pose_counts(PairErrors(errors.rotation[:1], errors.translation[:1]), thresholds=(90,))
    rra, rta, auc = pose_scores(counts)[:, 0].tolist()
    assert (rra, counts.directions.item()) == (1.0, 0)
    assert math.isnan(rta)
    assert auc == pytest.approx((90 - math.floor(rotation)) / 90), 'the rotation alone counts'

    perfect = pair_errors(predicted=in_other_world(gt, 2, 5.0), gt=gt)
    assert torch.equal(pose_scores(pose_counts(perfect, thresholds=(5,))), torch.ones(3, 1).double())


def test_predicted_cameras_in_one_place_are_wrong_by_ninety_degrees() -> None:
    gt = cameras(0, views=3)
    predicted = gt.clone()
    predicted[:, :3, 3] = 0
    torch.testing.assert_close(pair_errors(predicted=predicted, gt=gt).translation, torch.full((3,), 90.0).double())


@pytest.mark.parametrize('views', [2, 3, 7])
@pytest.mark.parametrize('kind', ['noisy', 'mirrored', 'two in one place'])
def test_trajectory_equals_plain_loops(kind: str, views: int) -> None:
    """Aligned by scipy, step by step with inverse matrices."""
    gt = cameras(views, views)
    if kind == 'two in one place':
        gt[1, :3, 3] = gt[0, :3, 3]
    predicted = in_other_world(disturbed(gt, 1), 2, 3.0)
    if kind == 'mirrored':
        predicted[:, 2, 3] *= -1
    errors = trajectory_errors(predicted=predicted, gt=gt)
    if views == 2 or (views == 3 and kind == 'two in one place'):
        assert math.isnan(errors.absolute)
        assert math.isnan(errors.relative_translation)
        assert math.isnan(errors.relative_rotation)
        return
    poses, true = predicted.numpy(), gt.numpy()
    centred, target = (p[:, :3, 3] - p[:, :3, 3].mean(0) for p in (poses, true))
    turn, _ = Rotation.align_vectors(target, centred)
    scale = (target * turn.apply(centred)).sum() / (centred**2).sum()
    aligned = poses.copy()
    aligned[:, :3, :3] = turn.as_matrix() @ poses[:, :3, :3]
    aligned[:, :3, 3] = scale * turn.apply(centred) + true[:, :3, 3].mean(0)
    steps = [
        np.linalg.inv(relative(true, i + 1, i)) @ relative(aligned, i + 1, i) for i in range(views - 1)
    ]  # what is left of each step
    turns = [Rotation.from_matrix(step[:3, :3]).magnitude() for step in steps]
    distances = [np.linalg.norm(step[:3, 3]) for step in steps]
    absolute = np.linalg.norm(aligned[:, :3, 3] - true[:, :3, 3], axis=1)
    for found, values in (
        (errors.absolute, absolute),
        (errors.relative_translation, distances),
        (errors.relative_rotation, np.rad2deg(turns)),
    ):
        assert found == pytest.approx(np.sqrt(np.mean(np.square(values))), abs=1e-8)


def test_trajectory_by_hand() -> None:
    """A square of side 2 of which one corner is lifted by 0.4; cameras that look the same way."""
    gt = torch.eye(4).double().repeat(4, 1, 1)
    gt[:, :3, 3] = torch.tensor([[0.0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0]])
    predicted = gt.clone()
    predicted[:, 2, 3] = torch.tensor([0.1, -0.1, 0.1, -0.1])  # no rotation lowers it, as both diagonals disagree
    errors = trajectory_errors(predicted=predicted, gt=gt)
    scale = 8 / (8 + 0.04)  # covariance over variance of the prediction, each with four corners at 2 from the centre
    expected = math.sqrt(2 * (1 - scale) ** 2 + (0.1 * scale) ** 2)
    assert errors.absolute == pytest.approx(expected)
    assert errors.relative_translation == pytest.approx(math.sqrt((2 * (1 - scale)) ** 2 + (0.2 * scale) ** 2))
    assert errors.relative_rotation == 0


@pytest.mark.parametrize(
    'centres', [[[0.0, 0, 0], [1, 0, 0]], [[1.0, 1, 1]] * 4, [[0.0, 0, 0], [1, 2, 3], [2, 4, 6], [5, 10, 15]]]
)
def test_trajectory_without_alignment_is_undefined(centres: list[list[float]]) -> None:
    gt = torch.eye(4).double().repeat(len(centres), 1, 1)
    gt[:, :3, 3] = torch.tensor(centres)
    good = cameras(0, views=len(centres))
    for predicted, true in ((gt, gt), (good, gt), (gt, good)):
        assert math.isnan(trajectory_errors(predicted=predicted, gt=true).absolute)


@pytest.mark.parametrize('function', [pair_errors, trajectory_errors])
@pytest.mark.parametrize(
    ('predicted', 'gt', 'message'),
    [
        (cameras(0, 4), cameras(0, 5), r'`predicted` must have shape .*\(5, 4, 4\), got \(4, 4, 4\)'),
        (cameras(0)[:, :3], cameras(0)[:, :3], r'\(V, 4, 4\)'),
        (cameras(0) * torch.nan, cameras(0), '`predicted` must be finite; 5 of 5'),
        (cameras(0), cameras(0) / 0, '`gt` must be finite; 5 of 5'),
        (cameras(0, 1), cameras(0, 1), 'at least two views, got 1'),
    ],
)
def test_refuses(function: Any, predicted: torch.Tensor, gt: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        function(predicted=predicted, gt=gt)


def test_refuses_unknown_choices() -> None:
    gt = cameras(0)
    errors = pair_errors(predicted=gt, gt=gt)
    with pytest.raises(ValueError, match=r"`direction` .* got 'backward'"):
        pair_errors(predicted=gt, gt=gt, direction='backward')  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`bins` .* got 'numpy'"):
        pose_counts(errors, thresholds=(5,), bins='numpy')  # type: ignore[arg-type]
    for threshold in (0, 2.5):
        with pytest.raises(ValueError, match='positive whole degrees'):
            pose_counts(errors, thresholds=(threshold,))  # type: ignore[arg-type]
