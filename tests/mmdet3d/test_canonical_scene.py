"""Frame, unit, boxes and volumes for heads of mmdet3d; needs nothing of it."""

import math

import pytest
import torch

from pano3d.functional.geometry import project, transform_points
from pano3d.mmdet3d.canonical_scene import boxes_of_instances, canonical_rotation, canonical_scene
from pano3d.mmdet3d.sparse import voxelise
from pano3d.mmdet3d.voxel_lifting import lift_features
from pano3d.structures import Reconstruction, SceneSample

VIEWS, HEIGHT, WIDTH = 3, 12, 16


def pose(angle: float, axis: int, translation: tuple[float, float, float]) -> torch.Tensor:
    """A turn about one axis, then a shift."""
    first, second = [other for other in range(3) if other != axis]
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[first, first] = matrix[second, second] = math.cos(angle)
    matrix[first, second], matrix[second, first] = -math.sin(angle), math.sin(angle)
    matrix[:3, 3] = torch.tensor(translation)
    return matrix


@pytest.fixture
def scene() -> Reconstruction:
    generator = torch.Generator().manual_seed(0)
    depth = 1 + 2 * torch.rand(VIEWS, HEIGHT, WIDTH, generator=generator, dtype=torch.float64)
    depth[0, 0, 0] = 0
    intrinsics = torch.tensor([[14.0, 0, 7.5], [0, 14, 5.5], [0, 0, 1]], dtype=torch.float64).expand(VIEWS, 3, 3)
    poses = torch.stack([pose(0.3, 1, (1, 2, 3)), pose(0.5, 1, (1.2, 2, 3)), pose(0.2, 0, (1, 2.3, 3))])
    return Reconstruction.from_depth(depth, intrinsics, poses)


def moved(scene: Reconstruction, motion: torch.Tensor, scale: float = 1.0) -> Reconstruction:
    cameras = motion @ scene.camera_to_world
    cameras[:, :3, 3] *= scale
    return Reconstruction.from_depth(scene.depth * scale, scene.intrinsics, cameras)


DEPTH_AXES = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]], dtype=torch.float64)


def test_the_first_camera_looks_along_y_and_z_is_up(scene):
    found = canonical_scene(scene, rotation=DEPTH_AXES, unit='metres')
    x, y, z = scene.local_points[0].unbind(-1)
    torch.testing.assert_close(found.points[0], torch.stack([x, z, -y], dim=-1))
    assert not found.valid[0, 0, 0]
    torch.testing.assert_close(canonical_rotation(SceneSample(), frame='aligned').double(), DEPTH_AXES)


@pytest.mark.parametrize('unit', ['metres', 'mean_distance'])
def test_cameras_see_the_points_at_their_pixels(scene, unit):
    found = canonical_scene(scene, rotation=DEPTH_AXES, unit=unit)
    for view in range(VIEWS):
        local = transform_points(torch.linalg.inv(found.camera_to_scene[view]), found.points[view].flatten(0, 1))
        pixel = project(local, found.intrinsics[view]).view(HEIGHT, WIDTH, 2)[1:, 1:]
        expected = torch.stack(torch.meshgrid(torch.arange(1, WIDTH), torch.arange(1, HEIGHT), indexing='xy'), dim=-1)
        torch.testing.assert_close(pixel, expected.double())


def test_a_moved_and_scaled_world_is_the_same_scene(scene):
    expected = canonical_scene(scene, rotation=DEPTH_AXES, unit='mean_distance')
    found = canonical_scene(moved(scene, pose(1.0, 2, (4, 5, 6)), 3.0), rotation=DEPTH_AXES, unit='mean_distance')
    torch.testing.assert_close(found.points, expected.points)
    torch.testing.assert_close(found.camera_to_scene, expected.camera_to_scene)
    torch.testing.assert_close(found.unit, 3 * expected.unit)
    assert found.points[found.valid].norm(dim=-1).mean().item() == pytest.approx(1)


@pytest.mark.parametrize('heading', [0.2, 1.8, 3.5, 5.0])
def test_the_aligned_frame_is_upright_and_faces_y(heading):
    alignment = pose(0.7, 2, (1, 1, 1))
    upright = pose(heading, 2, (0, 0, 0))[:3, :3] @ DEPTH_AXES  # from the camera to the aligned world
    camera = torch.eye(4, dtype=torch.float64)
    camera[:3, :3] = alignment[:3, :3].T @ upright
    sample = SceneSample(metainfo={'axis_alignment': alignment.tolist()})
    sample.gt_reconstruction = Reconstruction.from_depth(
        torch.ones(1, 2, 2, dtype=torch.float64), torch.eye(3, dtype=torch.float64)[None], camera[None]
    )
    rotation = canonical_rotation(sample, frame='aligned')
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(rotation[:, 1], torch.tensor([0, 0, -1.0], dtype=torch.float64))  # down of the image
    assert rotation[1, 2] >= math.sqrt(0.5) - 1e-9  # its third axis within 45 degrees of y
    turned = rotation @ upright.T  # from the aligned world: quarter turns only
    torch.testing.assert_close(turned.abs().round(), turned.abs())


def test_boxes_surround_the_valid_points_of_instances():
    points = torch.tensor([[0.0, 0, 0], [2, 1, 4], [1, 3, 1], [9, 9, 9], [5, 5, 5], [7, 7, 7], [8, 8, 8]])
    valid = torch.tensor([True, True, True, False, True, True, True])
    instance = torch.tensor([7, 7, 7, 7, 2, 0, 3])
    category = torch.tensor([4, 4, 4, 4, 6, 1, -1])
    boxes, labels = boxes_of_instances(points, valid, category, instance, min_points=1)
    assert boxes.tolist() == [[5, 5, 5, 0, 0, 0], [1, 1.5, 2, 2, 3, 4]]
    assert labels.tolist() == [6, 4]
    boxes, labels = boxes_of_instances(points, valid, category, instance, min_points=2)
    assert labels.tolist() == [4]
    assert boxes_of_instances(points, ~valid, category, instance, min_points=2)[0].shape == (0, 6)


def test_a_voxel_gets_the_mean_of_the_views_that_see_it(scene):
    scene = canonical_scene(scene, rotation=DEPTH_AXES, unit='metres')
    patch, grid = 4, (HEIGHT // 4, WIDTH // 4)
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing='ij')
    # Linear maps, so that bilinear sampling has a closed form between the middles of the outer patches.
    maps = torch.stack([torch.stack([columns, rows, torch.full_like(rows, view)]) for view in range(VIEWS)]).double()
    generator = torch.Generator().manual_seed(1)
    centres = torch.rand(500, 3, generator=generator, dtype=torch.float64) * 4 - torch.tensor([2.0, 1, 2])
    sizes = torch.tensor([[HEIGHT, WIDTH], [HEIGHT, WIDTH], [HEIGHT, 8]])
    found, seen = lift_features(maps, scene, centres, sizes=sizes)
    for place, centre in enumerate(centres):
        values = []
        for view in range(VIEWS):
            local = torch.linalg.inv(scene.camera_to_scene[view]) @ torch.cat([centre, centre.new_ones(1)])
            x, y = (14 * local[:2] / local[2] + torch.tensor([7.5, 5.5])).tolist()
            height, width = sizes[view].tolist()
            if local[2] > 1e-3 and -0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5:
                cell = ((x + 0.5) / patch - 0.5, (y + 0.5) / patch - 0.5)
                limited = [min(max(c, 0), last - 1) for c, last in zip(cell, (grid[1], grid[0]), strict=True)]
                values.append([*limited, view])
        assert bool(seen[place]) == bool(values)
        expected = torch.tensor(values).double().mean(0) if values else torch.zeros(3)
        torch.testing.assert_close(found[place], expected.double(), atol=1e-5, rtol=1e-5)
    assert 0 < seen.sum() < len(centres)


def test_views_do_not_see_behind_surfaces_if_told_so():
    wall = Reconstruction.from_depth(
        torch.full((1, HEIGHT, WIDTH), 2.0),
        torch.tensor([[[14.0, 0, 7.5], [0, 14, 5.5], [0, 0, 1]]]),
        torch.eye(4)[None],
    )
    scene = canonical_scene(wall, rotation=DEPTH_AXES.float(), unit='metres')
    centres = torch.tensor([[0.0, 1.9, 0], [0, 2.1, 0], [0, 2.4, 0]])
    maps, sizes = torch.ones(1, 1, 3, 4), torch.tensor([[HEIGHT, WIDTH]])
    assert lift_features(maps, scene, centres, sizes=sizes)[1].tolist() == [True, True, True]
    assert lift_features(maps, scene, centres, sizes=sizes, surface_margin=0.2)[1].tolist() == [True, True, False]


def test_voxels_against_a_dictionary():
    generator = torch.Generator().manual_seed(0)
    points = torch.randint(-40, 40, (300, 3), generator=generator) / 8  # representable: no point lies near a face
    scene = torch.arange(300) % 2
    values, labels = torch.rand(300, 2, generator=generator), torch.randint(0, 3, (300,), generator=generator)
    voxels = voxelise(points, scene, voxel_size=2.0, num_scenes=2)
    expected: dict[tuple, list[int]] = {}
    for index in range(300):
        lowest = points[scene == scene[index]].amin(0)
        cell = ((points[index] - lowest) / 2).floor().int().tolist()
        expected.setdefault((int(scene[index]), *cell), []).append(index)
    assert [tuple(row) for row in voxels.indices.tolist()] == sorted(expected)
    for number, members in enumerate(expected[key] for key in sorted(expected)):
        assert voxels.voxel_of_point[members].tolist() == [number] * len(members)
        torch.testing.assert_close(voxels.mean(values)[number], values[members].mean(0))
        counts = [sum(labels[i].item() == label for i in members) for label in range(3)]
        assert voxels.majority(labels, 3)[number] == counts.index(max(counts))


def test_grids_halve_without_a_rest_whatever_else_is_in_the_batch():
    points = torch.tensor([[0.0, 4, 0], [4, 0, 8], [0, 0, 0], [6, 1, 2]])
    scene = torch.tensor([0, 0, 1, 1])
    both = voxelise(points, scene, voxel_size=1.0, num_scenes=2).for_halving(2)
    alone = voxelise(points[2:], scene[2:] - 1, voxel_size=1.0, num_scenes=1).for_halving(2)
    assert sorted(both.tolist()) == [[0, 3, 7, 3], [0, 7, 3, 11], [1, 1, 2, 1], [1, 7, 3, 3]]
    assert torch.equal(both[2:, 1:], alone[:, 1:])


def test_a_point_far_away_leaves_the_others_apart():
    points = torch.tensor([[0.0, 0, 0], [1.5, 0, 0], [1e9, 0, 0]])
    voxels = voxelise(points, torch.zeros(3, dtype=torch.int64), voxel_size=1.0, num_scenes=1)
    assert voxels.indices[:, 1].tolist() == [0, 1, 1023]


def test_voxels_of_no_point_are_an_error():
    with pytest.raises(ValueError, match='`points` is empty'):
        voxelise(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), voxel_size=1.0, num_scenes=2)
