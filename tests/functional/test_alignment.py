"""Oracles: known motions, invariants, and what cannot be determined."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from pano3d.functional.alignment import align_similarity, is_degenerate, refine_by_icp
from pano3d.functional.geometry import transform_points


def motion(seed: int, *, angle: float = 1.0, scale: float = 1.0, shift: float = 1.0) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    turn = generator.normal(size=3)
    matrix = np.eye(4)
    matrix[:3, :3] = scale * Rotation.from_rotvec(angle * turn / np.linalg.norm(turn)).as_matrix()
    matrix[:3, 3] = shift * generator.normal(size=3)
    return torch.from_numpy(matrix)


def cloud(seed: int, count: int = 200) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, 3)))


def test_known_similarity_comes_back() -> None:
    source = cloud(0)
    known = motion(1, scale=0.4)
    torch.testing.assert_close(align_similarity(source, transform_points(known, source)), known, rtol=0, atol=1e-12)


def by_quaternions(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The similarity by Horn's closed form: the rotation is an eigenvector, and no reflection can come out."""
    moving, fixed = source - source.mean(0), target - target.mean(0)
    product = moving.T @ fixed
    turned = product - product.T
    matrix = np.empty((4, 4))  # scalar last
    matrix[:3, :3] = product + product.T - np.trace(product) * np.eye(3)
    matrix[:3, 3] = matrix[3, :3] = turned[[1, 2, 0], [2, 0, 1]]
    matrix[3, 3] = np.trace(product)
    values, vectors = np.linalg.eigh(matrix)
    rotation, scale = Rotation.from_quat(vectors[:, -1]).as_matrix(), values[-1] / (moving**2).sum()
    transform = np.eye(4)
    transform[:3, :3] = scale * rotation
    transform[:3, 3] = target.mean(0) - scale * rotation @ source.mean(0)
    return transform


@pytest.mark.parametrize('kind', ['noisy', 'mirrored', 'planar', 'three', 'duplicates', 'far', 'tiny', 'huge'])
def test_similarity_equals_the_solution_by_quaternions(kind: str) -> None:
    generator = np.random.default_rng(0)
    for seed in range(5):
        source = generator.normal(size=(3 if kind == 'three' else 30, 3))
        source *= {'planar': np.array([1, 1, 0]), 'tiny': 1e-6}.get(kind, 1)
        source += 1e5 * (kind == 'far')
        if kind == 'duplicates':
            source[10:] = source[9]
        turn = Rotation.random(random_state=seed).as_matrix()
        target = 1.7 * source @ turn.T + 0.05 * generator.normal(size=source.shape) + generator.normal(size=3)
        target *= {'mirrored': np.array([1, 1, -1]), 'huge': 1e6}.get(kind, 1)
        found = align_similarity(torch.from_numpy(source), torch.from_numpy(target))
        expected = torch.from_numpy(by_quaternions(source, target))
        left, right = (transform_points(transform, torch.from_numpy(source)) for transform in (found, expected))
        torch.testing.assert_close(left, right, rtol=0, atol=1e-9 * float(np.abs(target).max()))
        assert torch.linalg.det(found[:3, :3]) > 0


def test_equal_sets_are_left_exactly_where_they_are() -> None:
    points = cloud(0).float()
    assert torch.equal(align_similarity(points, points), torch.eye(4).double())
    assert torch.equal(refine_by_icp(points, points), torch.eye(4).double())


def test_order_of_pairs_does_not_matter() -> None:
    source = cloud(0)
    target = transform_points(motion(1, scale=2.0), source) + 0.1 * cloud(2)
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        align_similarity(source[order], target[order]), align_similarity(source, target), rtol=0, atol=1e-12
    )


def test_similarity_of_the_source_changes_nothing_after_alignment() -> None:
    source = cloud(0)
    target = transform_points(motion(1, scale=2.0), source) + 0.1 * cloud(2)
    other = transform_points(motion(3, scale=7.0), source)
    torch.testing.assert_close(
        transform_points(align_similarity(other, target), other),
        transform_points(align_similarity(source, target), source),
        rtol=0,
        atol=1e-10,
    )


def surface(count: int = 3000) -> torch.Tensor:
    """Three walls of a room, which hold a cloud in every direction."""
    uv = torch.from_numpy(np.random.default_rng(0).uniform(0, 2, size=(count, 2)))
    zero = uv.new_zeros(count)
    walls = [(uv[:, 0], uv[:, 1], zero), (uv[:, 0], zero, uv[:, 1]), (zero, uv[:, 0], uv[:, 1])]
    return torch.cat([torch.stack(wall, -1) for wall in walls])


def test_icp_finds_a_small_motion_without_pairs() -> None:
    target = surface()
    known = motion(4, angle=0.01, shift=0.01)
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(0))
    source = transform_points(torch.linalg.inv(known), target[order])
    found = refine_by_icp(source, target, max_iterations=200, tolerance=1e-12)
    torch.testing.assert_close(found, known, rtol=0, atol=1e-9)
    torch.testing.assert_close(found[:3, :3].T @ found[:3, :3], torch.eye(3).double())


def test_icp_never_moves_a_cloud_away() -> None:
    target = surface(500)
    source = transform_points(motion(5, angle=0.03, shift=0.02), target) + 0.01 * cloud(6, len(target))
    before, after = (
        np.sqrt(np.mean(cKDTree(target.numpy()).query(points.numpy())[0] ** 2))
        for points in (source, transform_points(refine_by_icp(source, target), source))
    )
    assert after < before


def test_icp_pairs_nothing_far_away() -> None:
    points = cloud(0)
    assert torch.equal(refine_by_icp(points + 100, points), torch.eye(4).double())
    outlier = torch.cat([points, points[:1] + 50])
    assert torch.equal(refine_by_icp(outlier, points), torch.eye(4).double()), 'what is far away does not pull'


@pytest.mark.parametrize(
    ('points', 'degenerate'),
    [
        (torch.eye(3), False),
        (torch.zeros(5, 3), True),
        (torch.full((5, 3), 1e3) + 1e-13, True),
        (torch.linspace(0, 1, 9)[:, None] * torch.tensor([1.0, 2, 3]), True),
        (torch.tensor([[0.0, 0, 0], [1, 1, 1]]), True),
        (torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1e-3, 0]]), False),
    ],
)
@pytest.mark.parametrize('shift', [0.0, 1000.0])
def test_degenerate_sets(points: torch.Tensor, degenerate: bool, shift: float) -> None:
    assert is_degenerate(points.double() + shift) == degenerate


@pytest.mark.parametrize(
    ('source', 'target', 'message'),
    [
        (torch.zeros(5, 3), torch.zeros(4, 3), r'one shape \(N, 3\), got \(5, 3\) and \(4, 3\)'),
        (torch.zeros(5, 2), torch.zeros(5, 2), r'\(N, 3\), got \(5, 2\)'),
        (torch.zeros(0, 3), torch.zeros(0, 3), 'N > 0'),
        (torch.full((5, 3), torch.nan), torch.zeros(5, 3), '`source` must be finite; 5 of 5'),
        (torch.zeros(5, 3), torch.full((5, 3), torch.inf), '`target` must be finite'),
        (torch.zeros(5, 3), torch.rand(5, 3), '5 paired points do not determine a similarity'),
        (torch.rand(2, 3), torch.rand(2, 3), '2 paired points do not determine'),
    ],
)
def test_refuses(source: torch.Tensor, target: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        align_similarity(source, target)


def test_icp_refuses_what_is_no_cloud() -> None:
    with pytest.raises(ValueError, match='`target` must be finite'):
        refine_by_icp(cloud(0), cloud(0) * torch.nan)
    with pytest.raises(ValueError, match='`source` must have shape'):
        refine_by_icp(torch.zeros(0, 3), cloud(0))
