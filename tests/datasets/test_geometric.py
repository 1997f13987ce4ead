"""Oracles: projecting points by hand, ray casting into the room with the new cameras, and averaging blocks."""

from dataclasses import dataclass

import numpy as np
import pytest

from pano3d.datasets import MirrorScene, ResizeCrop
from pano3d.datasets.transforms.geometric import resample_nearest, resize_and_crop


@dataclass(frozen=True)
class Scene:
    mesh: str | None


CENTRE = np.array([0.5, 0.5])
COLOR_INTRINSICS = np.array([[50.0, 0, 30.5], [0, 51.0, 24.25], [0, 0, 1]])
DEPTH_INTRINSICS = np.array([[34.0, 0, 20.25], [0, 33.0, 15.0], [0, 0, 1]])


def loaded(room, *, views=3, color_size=(64, 48), depth_size=(40, 32), seed=0):
    """What LoadViews would put out, without files: `color` is smooth and exact up to rounding."""
    poses = np.stack([room.camera(2 * i) for i in range(views)])
    seen = [room.image(color_size, COLOR_INTRINSICS, pose) for pose in poses]
    return {
        'scene': Scene(mesh='mesh.npz'),
        'rng': np.random.default_rng(seed),
        'color': [np.rint(room.color_of(points)).astype(np.uint8) for _, points, _ in seen],
        'instance': [instance.astype(np.int32) for _, _, instance in seen],
        'depth': [room.image(depth_size, DEPTH_INTRINSICS, pose)[0].astype(np.float32) for pose in poses],
        'color_intrinsics': np.stack([COLOR_INTRINSICS] * views),
        'depth_intrinsics': np.stack([DEPTH_INTRINSICS] * views),
        'camera_to_world': poses,
    }


def project(points, intrinsics, pose):
    camera = (points - pose[:3, 3]) @ pose[:3, :3]
    return (camera @ intrinsics.T)[..., :2] / camera[..., 2:]


class TestResizeAndCrop:
    @pytest.mark.parametrize('position', [(0.5, 0.5), (0.0, 0.0), (1.0, 1.0), (0.3, 0.9)])
    @pytest.mark.parametrize('size', [(24, 32), (20, 32), (24, 20), (33, 45), (96, 130), (48, 64)])
    def test_intrinsics_follow_the_pixels(self, size, position):
        """A picture that says where each pixel lies; after the transform a pixel still tells its old coordinates."""
        x, y = np.meshgrid(np.arange(64), np.arange(48))
        image = np.stack([3 * x + 20, 4 * y + 20, 0 * x], -1).astype(np.uint8)
        cropped, to_target = resize_and_crop(image, size, np.array(position))
        assert cropped.shape == (*size, 3)
        columns, rows = np.meshgrid(np.arange(size[1]), np.arange(size[0]))
        old = np.stack([columns, rows, np.ones_like(rows)], -1) @ np.linalg.inv(to_target).T
        inside = (old[..., 0] >= 1) & (old[..., 0] <= 62) & (old[..., 1] >= 1) & (old[..., 1] <= 46)
        assert inside.mean() > 0.8
        told = np.stack([(cropped[..., 0] - 20.0) / 3, (cropped[..., 1] - 20.0) / 4], -1)
        np.testing.assert_allclose(told[inside], old[..., :2][inside], atol=0.5 / 3 + 0.06)

    def test_by_hand(self):
        """Halving, 64x48 to cover (height 20, width 32): 32x24, of which the middle 20 rows remain."""
        _, to_target = resize_and_crop(np.zeros((48, 64, 3), np.uint8), (20, 32), CENTRE)
        # u' = (u + 0.5) / 2 - 0.5; v' = (v + 0.5) / 2 - 0.5 - 2
        np.testing.assert_allclose(to_target, [[0.5, 0, -0.25], [0, 0.5, -2.25], [0, 0, 1]])

    def test_shrinking_averages_blocks(self):
        image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        cropped, _ = resize_and_crop(image, (12, 16), CENTRE)
        np.testing.assert_allclose(cropped, image.reshape(12, 4, 16, 4, 3).mean((1, 3)), atol=0.51)

    @pytest.mark.parametrize('size', [(1, 1), (47, 63), (384, 512), (512, 384), (84, 112)])
    @pytest.mark.parametrize('shape', [(968, 1296), (120, 160), (48, 64), (1296, 968)])
    def test_covers_any_target(self, shape, size):
        cropped, to_target = resize_and_crop(np.full((*shape, 3), 7, np.uint8), size, CENTRE)
        assert cropped.shape == (*size, 3)
        assert (cropped == 7).all()
        scale = np.diag(to_target)[:2]
        assert abs(scale[0] / scale[1] - 1) <= 0.5 / min(size) + 1e-9, 'the aspect ratio may change by rounding only'
        corners = np.array([[0, 0, 1], [size[1] - 1, size[0] - 1, 1]]) @ np.linalg.inv(to_target).T
        assert (corners[0, :2] >= -0.5).all()
        assert (corners[1, :2] <= np.array(shape[::-1]) - 0.5).all()

    def test_the_same_size_changes_nothing(self):
        image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        cropped, to_target = resize_and_crop(image, (48, 64), CENTRE)
        np.testing.assert_array_equal(cropped, image)
        np.testing.assert_array_equal(to_target, np.eye(3))


class TestResampleNearest:
    def test_against_a_loop(self):
        image = np.arange(1, 31 * 41 + 1).reshape(31, 41)
        source = np.array([[34.0, 0, 20.25], [0, 33.0, 15.0], [0, 0, 1]])
        target = np.array([[21.7, 0, 18.1], [0, 23.3, 11.9], [0, 0, 1]])
        result = resample_nearest(image, source, target, (25, 38))
        for v in range(25):
            for u in range(38):
                x, y = (u - 18.1) / 21.7 * 34.0 + 20.25, (v - 11.9) / 23.3 * 33.0 + 15.0
                column, row = round(x), round(y)
                expected = image[row, column] if 0 <= column < 41 and 0 <= row < 31 else 0
                assert result[v, u] == expected
        assert (result == 0).any()

    @pytest.mark.parametrize('factor', [2, 4])
    def test_ties_all_go_the_same_way(self, factor):
        """Shrinking by an even factor samples exactly between pixels, for any intrinsics, whatever their rounding."""
        image = np.arange(64)[None, :].repeat(48, 0)
        for focal in (49.123, 577.590698, 1170.187988):
            source = np.array([[focal, 0, 30.7], [0, focal, 20.1], [0, 0, 1]])
            shift = 0.5 / factor - 0.5
            target = np.array([[1 / factor, 0, shift], [0, 1 / factor, shift], [0, 0, 1]]) @ source
            result = resample_nearest(image, source, target, (48 // factor, 64 // factor))
            np.testing.assert_array_equal(result[0], np.arange(64 // factor) * factor + factor // 2 - 1)


@pytest.mark.parametrize('crop', ['center', 'random'])
@pytest.mark.parametrize('size', [(28, 42), (40, 40), (84, 112)])
class TestResizeCrop:
    def test_depth_and_colour_agree(self, room, size, crop):
        """A pixel's depth, lifted by its own camera, lies where the colour of the same pixel says."""
        results = ResizeCrop(size=size, crop=crop)(loaded(room))
        pixels = np.stack(np.meshgrid(np.arange(size[1]), np.arange(size[0])), -1)
        for i, pose in enumerate(results['camera_to_world']):
            camera, depth = results['intrinsics'][i], results['depth'][i][..., None]
            rays = np.concatenate([pixels, np.ones_like(pixels[..., :1])], -1) @ np.linalg.inv(camera).T
            lifted = (rays * depth) @ pose[:3, :3].T + pose[:3, 3]
            told = (results['color'][i] - 20.0) / 215 * room.size
            known = depth[..., 0] > 0
            assert known.mean() > 0.6
            error = np.linalg.norm(lifted - told, axis=-1)[known]
            # Half a depth pixel on a slanted wall, plus 1/215 of the room by rounding colours; edges are worse.
            assert np.percentile(error, 90) < 0.12
            assert np.median(error) < 0.05

    def test_a_point_lands_where_both_cameras_see_it(self, room, size, crop):
        """Every target pixel took its depth and its instance from at most half a pixel beside its ray."""
        before = loaded(room)
        results = ResizeCrop(size=size, crop=crop)(before)
        for i, pose in enumerate(results['camera_to_world']):
            marks = np.arange(1, 32 * 40 + 1).reshape(32, 40)
            camera = results['intrinsics'][i]
            found = resample_nearest(marks, DEPTH_INTRINSICS, camera, size)
            rows, columns = np.nonzero(found)
            source = np.stack([(found[rows, columns] - 1) % 40, (found[rows, columns] - 1) // 40], -1)
            _, points, _ = room.cast(np.stack([columns, rows], -1).astype(float), camera, pose)
            exact = project(points, DEPTH_INTRINSICS, pose)
            assert np.abs(exact - source).max() <= 0.5 + 1e-5
            np.testing.assert_array_equal(
                results['depth'][i][rows, columns], before['depth'][i][source[:, 1], source[:, 0]]
            )

    def test_labels_agree_with_ray_casting(self, room, size, crop):
        results = ResizeCrop(size=size, crop=crop)(loaded(room))
        for i, pose in enumerate(results['camera_to_world']):
            depth, _, instance = room.image(size[::-1], results['intrinsics'][i], pose)
            assert (results['instance'][i] == instance).mean() > 0.97
            known = results['depth'][i] > 0
            relative = np.abs(results['depth'][i] / depth - 1)[known]
            assert np.median(relative) < 0.02

    def test_what_comes_out(self, room, size, crop):
        before = loaded(room)
        results = ResizeCrop(size=size, crop=crop)(before)
        assert results['color'].shape == (3, *size, 3)
        assert results['depth'].shape == results['instance'].shape == (3, *size)
        assert 'color_intrinsics' not in results
        assert 'color_intrinsics' in before, 'the input stays'
        assert isinstance(before['color'], list)


def test_random_crops_are_shared_by_the_views_and_reach_both_ends(room):
    offsets = set()
    for seed in range(60):
        intrinsics = ResizeCrop(size=(24, 26), crop='random')(loaded(room, seed=seed))['intrinsics']
        assert (intrinsics == intrinsics[0]).all()
        offsets.add(round((30.5 + 0.5) / 2 - 0.5 - intrinsics[0, 0, 2], 6))
    assert offsets == set(range(7)), '32 columns, of which 26 remain'


def test_views_of_different_size_share_one_target(room):
    """Depth outside its image, and views without any overlap of the two, are unknown rather than wrong."""
    results = loaded(room, views=2)
    results['color'][1] = np.zeros((100, 90, 3), np.uint8)
    results['instance'][1] = np.ones((100, 90), np.int32)
    results['depth_intrinsics'][1, 0, 2] = -1000.0
    packed = ResizeCrop(size=(28, 42))(results)
    assert packed['color'].shape == (2, 28, 42, 3)
    assert (packed['depth'][1] == 0).all()
    assert (packed['instance'][1] == 1).all()


class TestMirrorScene:
    def test_every_point_still_projects_to_where_it_is_seen(self, room):
        plain = ResizeCrop(size=(28, 42))(loaded(room))
        mirrored = MirrorScene(prob=1.0)(plain)
        mirror = np.array([-1.0, 1.0, 1.0])
        for i in range(3):
            _, points, _ = room.image((42, 28), plain['intrinsics'][i], plain['camera_to_world'][i])
            pixels = project(points * mirror, mirrored['intrinsics'][i], mirrored['camera_to_world'][i])
            columns, rows = np.rint(pixels).astype(int).reshape(-1, 2).T
            np.testing.assert_allclose(pixels.reshape(-1, 2), np.stack([columns, rows], -1), atol=1e-9)
            for key in ('color', 'depth', 'instance'):
                flat = plain[key][i].reshape(28 * 42, *plain[key][i].shape[2:])
                np.testing.assert_array_equal(mirrored[key][i][rows, columns], flat)

    def test_poses_stay_rotations(self, room):
        poses = MirrorScene(prob=1.0)(ResizeCrop(size=(28, 42))(loaded(room)))['camera_to_world']
        np.testing.assert_allclose(np.linalg.det(poses[:, :3, :3]), 1)
        rotations = poses[:, :3, :3]
        np.testing.assert_allclose(rotations @ rotations.transpose(0, 2, 1), np.stack([np.eye(3)] * 3), atol=1e-12)

    def test_twice_is_nothing(self, room):
        plain = ResizeCrop(size=(28, 42))(loaded(room))
        twice = MirrorScene(prob=1.0)(MirrorScene(prob=1.0)(plain))
        for key in ('color', 'depth', 'instance', 'intrinsics', 'camera_to_world'):
            np.testing.assert_allclose(twice[key], plain[key], atol=1e-12)

    def test_the_mesh_does_not_fit_any_more(self, room):
        plain = ResizeCrop(size=(28, 42))(loaded(room))
        assert MirrorScene(prob=1.0)(plain)['scene'].mesh is None
        assert plain['scene'].mesh == 'mesh.npz'
        assert MirrorScene(prob=0.0)(plain) is plain

    def test_probability(self, room):
        plain = ResizeCrop(size=(28, 42))(loaded(room))
        rng = np.random.default_rng(0)
        count = sum(MirrorScene(prob=0.25)({**plain, 'rng': rng})['scene'].mesh is None for _ in range(1000))
        assert abs(count - 250) < 60  # the standard deviation is 14


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda: ResizeCrop(size=(3, 4, 5)), '`size`'),
        (lambda: ResizeCrop(size=(0, 4)), '`size`'),
        (lambda: ResizeCrop(size=(3, 4), crop='left'), '`crop`'),
        (lambda: MirrorScene(prob=1.5), '`prob`'),
    ],
)
def test_refuses_nonsense(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_mirroring_before_the_cameras_are_one():
    with pytest.raises(ValueError, match='MirrorScene must come after ResizeCrop'):
        MirrorScene(prob=1)({'rng': np.random.default_rng(0), 'color': [], 'depth': [], 'instance': []})
