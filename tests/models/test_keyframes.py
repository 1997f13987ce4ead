"""Oracles: positions by hand, and a brute-force search for covered points."""

import pytest
import torch

from pano3d.functional.focal import pinhole_intrinsics
from pano3d.models.keyframes import CoverageKeyframes, EveryNthKeyframes, LinspaceKeyframes, evenly_spaced
from pano3d.structures import Reconstruction

SIZE = (12, 16)


def not_needed(index):
    raise AssertionError(f'frame {index} need not be rendered')


@pytest.mark.parametrize(
    ('total', 'count', 'expected'),
    [
        (1, 1, [0]),
        (1, 5, [0]),
        (4, 20, [0, 1, 2, 3]),
        (11, 3, [0, 5, 10]),
        (10, 4, [0, 3, 6, 9]),
        (7, 1, [0]),
        (100, 2, [0, 99]),
    ],
)
def test_evenly_spaced_by_hand(total, count, expected):
    assert evenly_spaced(total, count) == expected
    assert list(LinspaceKeyframes(count).choose(total, not_needed)) == expected


def test_every_nth_by_hand():
    assert list(EveryNthKeyframes(3).choose(10, not_needed)) == [0, 3, 6, 9]
    assert list(EveryNthKeyframes(3, max_keyframes=2).choose(10, not_needed)) == [0, 3]
    assert list(EveryNthKeyframes(30).choose(10, not_needed)) == [0]


class Wall:
    """A camera with a field of view 2 wide at depth 1 that slides along a wall; frame i at positions[i]."""

    def __init__(self, positions, depth=1.0):
        self.positions = positions
        self.depth = depth
        self.asked = []

    def __call__(self, index):
        self.asked.append(index)
        poses = torch.eye(4)[None].clone()
        poses[0, 0, 3] = self.positions[index]
        intrinsics = pinhole_intrinsics(torch.tensor([SIZE[1] / 2]), SIZE)
        return Reconstruction.from_depth(torch.full((1, *SIZE), self.depth), intrinsics, poses)


def brute_force(wall, min_coverage, tolerance, most):
    chosen = [0]
    seen = wall(0).points.view(-1, 3)
    for index in range(1, len(wall.positions)):
        view = wall(index)
        distance = torch.cdist(view.points.view(-1, 3), seen).amin(1)
        covered = (distance <= tolerance * view.depth.flatten()).float().mean()
        if covered < min_coverage and len(chosen) < most:
            chosen.append(index)
            seen = torch.cat([seen, view.points.view(-1, 3)])
    return chosen


@pytest.mark.parametrize('min_coverage', [0.3, 0.7])
@pytest.mark.parametrize('most', [3, 50])
def test_coverage_agrees_with_brute_force(min_coverage, most):
    generator = torch.Generator().manual_seed(0)
    positions = (0.4 * torch.rand(40, generator=generator)).cumsum(0).tolist()
    policy = CoverageKeyframes(min_coverage=min_coverage, tolerance=0.1, max_keyframes=most)
    found = list(policy.choose(40, Wall(positions)))
    assert found == brute_force(Wall(positions), min_coverage, 0.1, most)
    assert len(found) == min(most, len(found)) > 2


def test_slides_of_half_a_view_by_hand():
    """Steps of 1 in a view of 2: half of each next frame is new, so 0.4 wants every second, 0.6 every one."""
    positions = [float(i) for i in range(7)]
    for min_coverage, expected in ((0.4, [0, 2, 4, 6]), (0.6, list(range(7)))):
        policy = CoverageKeyframes(min_coverage=min_coverage, tolerance=0.01)
        assert list(policy.choose(7, Wall(positions))) == expected


def test_a_camera_that_rests_needs_one_keyframe_and_returns_are_covered():
    assert list(CoverageKeyframes().choose(5, Wall([0.0] * 5))) == [0]
    assert list(CoverageKeyframes().choose(5, Wall([0.0, 3.0, 0.0, 3.0, 0.1]))) == [0, 1]


def test_tolerance_grows_with_depth():
    """Ten times as far, ten times the distances: the same keyframes."""
    near = list(CoverageKeyframes(tolerance=0.11).choose(6, Wall([0.3 * i for i in range(6)])))
    far = list(CoverageKeyframes(tolerance=0.11).choose(6, Wall([3.0 * i for i in range(6)], depth=10.0)))
    assert near == far == [0, 3]


def test_only_each_nth_frame_is_looked_at():
    wall = Wall([float(i) for i in range(9)])
    assert list(CoverageKeyframes(step=4, tolerance=0.01).choose(9, wall)) == [0, 4, 8]
    assert set(wall.asked) == {0, 4, 8}


def test_frames_without_points_show_nothing_new():
    wall = Wall([0.0, 5.0, 9.0])
    policy = CoverageKeyframes()

    def render(index):
        view = wall(index)
        return view if index != 1 else Reconstruction.from_depth(view.depth * 0, view.intrinsics, view.camera_to_world)

    assert list(policy.choose(3, render)) == [0, 2]
    wall.depth = 0.0
    assert list(policy.choose(3, wall)) == [0]


def test_the_number_of_samples_bounds_the_points():
    points, depth = CoverageKeyframes(samples=50)._sample(Wall([0.0])(0))
    assert len(points) == len(depth) == 6 * 8
    points, _ = CoverageKeyframes(samples=10**6)._sample(Wall([0.0])(0))
    assert len(points) == SIZE[0] * SIZE[1]


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: LinspaceKeyframes(0), '`count` must be at least 1, got 0'),
        (lambda: EveryNthKeyframes(0), '`step` must be at least 1, got 0'),
        (lambda: EveryNthKeyframes(1, max_keyframes=0), '`max_keyframes` must be at least 1, got 0'),
        (lambda: CoverageKeyframes(min_coverage=1.5), '`min_coverage` must be from 0 to 1, got 1.5'),
        (lambda: CoverageKeyframes(tolerance=0), '`tolerance` must be above 0, got 0'),
        (lambda: CoverageKeyframes(samples=0), '`samples` must be at least 1, got 0'),
    ],
)
def test_wrong_arguments_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
