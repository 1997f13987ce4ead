"""Oracles: a wall whose pixels can be counted, and every point on its own."""

import numpy as np
import torch

from pano3d.functional.geometry import transform_points, unproject
from pano3d.functional.view_overlap import pairwise_overlap, seen_points

INTRINSICS = torch.tensor([[10.0, 0, 9.5], [0, 10.0, 4.5], [0, 0, 1]])


def shifted(x: float) -> torch.Tensor:
    pose = torch.eye(4)
    pose[0, 3] = x
    return pose


def wall(depth: float) -> torch.Tensor:
    return torch.full((10, 20), depth)


def test_a_wall_seen_from_two_places():
    """At 2 m, a metre to the right is 5 pixels: 15 of 20 columns are common."""
    points = unproject(wall(2.0), INTRINSICS)
    seen, contradicted = seen_points(points.reshape(-1, 3), wall(2.0), INTRINSICS, shifted(1.0))
    assert seen.reshape(10, 20).sum(1).tolist() == [15] * 10
    assert seen.reshape(10, 20)[:, 5:].all()
    assert not contradicted.any()


def test_surfaces_before_and_behind():
    points = unproject(wall(2.0), INTRINSICS).reshape(-1, 3)
    for depth, expected in ((2.09, (True, False)), (1.92, (True, False)), (1.5, (False, False)), (3.0, (False, True))):
        seen, contradicted = seen_points(points, wall(depth), INTRINSICS, torch.eye(4))
        assert (seen.all().item(), contradicted.all().item()) == expected
        assert (seen.any().item(), contradicted.any().item()) == expected
    unknown = seen_points(points, wall(0.0), INTRINSICS, torch.eye(4))
    assert not torch.stack(unknown).any()


def test_points_behind_the_camera_are_not_seen():
    pose = torch.eye(4)
    pose[2, 3] = 5
    points = unproject(wall(2.0), INTRINSICS).reshape(-1, 3)
    assert not torch.stack(seen_points(points, wall(3.0), INTRINSICS, pose)).any()
    assert not torch.stack(seen_points(points[:0], wall(3.0), INTRINSICS, pose)).any()


def test_against_one_point_at_a_time():
    rng = np.random.default_rng(0)
    depth = torch.from_numpy(rng.uniform(0.5, 4, (10, 20)) * (rng.random((10, 20)) < 0.8)).float()
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation * np.sign(np.linalg.det(rotation)), rng.normal(size=3)
    local = np.stack([rng.uniform(-2, 2, 2000), rng.uniform(-1, 1, 2000), rng.uniform(-1, 4, 2000)], -1)
    points = transform_points(torch.from_numpy(pose), torch.from_numpy(local)).float()
    seen, contradicted = seen_points(points, depth, INTRINSICS, torch.from_numpy(pose).float(), tolerance=0.3)
    assert seen.sum() > 20 < contradicted.sum()
    for (x, y, z), is_seen, is_contradicted in zip(local, seen.tolist(), contradicted.tolist(), strict=True):
        expected = (False, False)
        if z > 0:
            column, row = round(10 * x / z + 9.5), round(10 * y / z + 4.5)
            if 0 <= column < 20 and 0 <= row < 10 and depth[row, column] > 0:
                ratio = z / depth[row, column].item()
                expected = (0.7 <= ratio <= 1.3, ratio < 0.7)
        assert (is_seen, is_contradicted) == expected


def test_pairwise_overlap_of_a_wall_seen_from_three_places():
    """At 2 m, a metre is 5 of 20 columns; the third view stands 3 m to the right and the fourth looks away."""
    away = torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0]))
    poses = torch.stack([shifted(0.0), shifted(1.0), shifted(3.0), away])
    overlap = pairwise_overlap(wall(2.0).expand(4, -1, -1), INTRINSICS.expand(4, -1, -1), poses)
    expected = [[1, 0.75, 0.25, 0], [0.75, 1, 0.5, 0], [0.25, 0.5, 1, 0], [0, 0, 0, 1]]
    torch.testing.assert_close(overlap, torch.tensor(expected))


def test_a_close_up_is_in_the_overview_and_not_the_other_way_round():
    closer = torch.eye(4)
    closer[2, 3] = 1.0
    poses, depth = torch.stack([torch.eye(4), closer]), torch.stack([wall(2.0), wall(1.0)])
    overlap = pairwise_overlap(depth, INTRINSICS.expand(2, -1, -1), poses)
    assert overlap[1, 0] == 1
    # The outer pixels fall on 9.5 + 2 (column - 9.5): columns 5 to 14 are inside; rows 2 and 7 are just on the rim.
    torch.testing.assert_close(overlap[0, 1], torch.tensor(10 * 4 / 200))


def test_pairwise_overlap_against_one_pixel_at_a_time():
    rng = np.random.default_rng(1)
    depth = torch.from_numpy(rng.uniform(1.5, 2.5, (3, 10, 20)) * (rng.random((3, 10, 20)) < 0.7)).float()
    depth[2] = 0
    poses = torch.stack([shifted(x) for x in (0.0, 0.4, 0.0)])
    overlap = pairwise_overlap(depth, INTRINSICS.expand(3, -1, -1), poses, tolerance=0.2)
    for i in range(3):
        for j in range(3):
            points = [
                ((column - 9.5) / 10 * z + float(poses[i, 0, 3] - poses[j, 0, 3]), (row - 4.5) / 10 * z, z)
                for row, line in enumerate(depth[i].tolist())
                for column, z in enumerate(line)
                if z > 0
            ]
            found = 0
            for x, y, z in points:
                column, row = round(10 * x / z + 9.5), round(10 * y / z + 4.5)
                if 0 <= column < 20 and 0 <= row < 10 and depth[j, row, column] > 0:
                    found += abs(z / depth[j, row, column].item() - 1) <= 0.2
            assert abs(overlap[i, j].item() - found / max(len(points), 1)) < 1e-6
    assert 0.1 < overlap[0, 1] < 0.9
    assert overlap[2].sum() == overlap[:, 2].sum() == 0
