"""Conversion of ScanNet++ v2 scans against what the official tools return, and of damaged ones."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pano3d.conversion import ConversionSummary
from pano3d.conversion.annotation import read_aggregation, read_segments
from pano3d.conversion.colmap import PosedImage, read_cameras, read_posed_images
from pano3d.conversion.distorted_camera import DistortedCamera, Undistortion
from pano3d.conversion.images import to_millimetres
from pano3d.conversion.iphone_depth import IPhoneDepthReader
from pano3d.conversion.rasterise import MeshRasteriser
from pano3d.conversion.scannetpp import convert_scannetpp
from pano3d.conversion.scannetpp_labels import (
    BenchmarkClasses,
    benchmark_groups,
    last_group,
    smallest_group,
    vertices_of_groups,
)
from pano3d.conversion.scannetpp_scan import SPLITS, IPhoneImages, PPScan
from pano3d.structures import LabelSpace

CAMERAS = ('dslr', 'iphone')
NONE = -100  # of the official arrays


@pytest.fixture(scope='session')
def converted(raw_formats: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, ConversionSummary]]:
    out = tmp_path_factory.mktemp('scenes')
    return {
        name: (out / name, convert_scannetpp(raw_formats / 'scannetpp', out / name, camera=name)) for name in CAMERAS
    }


class Case:
    """A raw scan, what is stored of it, and its expected values."""

    def __init__(
        self, raw_formats: Path, converted: dict[str, tuple[Path, ConversionSummary]], scannetpp_scene: str
    ) -> None:
        self.raw = raw_formats / 'scannetpp' / 'data' / scannetpp_scene
        self.expected = raw_formats / 'expected' / 'scannetpp'
        self.facts = json.loads((self.expected / f'{scannetpp_scene}.json').read_text())
        self.arrays = np.load(self.expected / f'{scannetpp_scene}.npz')
        self.folder = {name: converted[name][0] / 'scenes' / scannetpp_scene for name in CAMERAS}
        self.scene = {name: json.loads((self.folder[name] / 'scene.json').read_text()) for name in CAMERAS}
        self.classes = BenchmarkClasses.read(raw_formats / 'scannetpp' / 'metadata' / 'semantic_benchmark')
        self.label_space = LabelSpace.load(str(converted['dslr'][0] / 'label_space.json'))
        self.groups = read_aggregation(self.raw / 'scans' / 'segments_anno.json')

    def camera(self, name: str) -> DistortedCamera:
        (camera,) = read_cameras(self.raw / name / 'colmap' / 'cameras.txt').values()
        return camera

    def posed(self, name: str) -> dict[str, PosedImage]:
        return {Path(image.name).stem: image for image in read_posed_images(self.raw / name / 'colmap' / 'images.txt')}

    def image(self, camera: str, name: str | None) -> np.ndarray:
        assert name is not None
        image = cv2.imread(str(self.folder[camera] / name), cv2.IMREAD_UNCHANGED)
        assert image is not None
        return image

    def mesh(self, key: str) -> np.ndarray:
        with np.load(self.folder['dslr'] / 'mesh.npz') as mesh:
            return mesh[key]

    def labels(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Groups of each vertex: up to three, the chosen one, the last one."""
        num_vertices = self.facts['num_vertices']
        members, _ = vertices_of_groups(read_segments(self.raw / 'scans/segments.json', num_vertices), self.groups)
        used = [self.classes.class_id(group.label) is not None for group in self.groups]
        several = benchmark_groups(members, used, num_vertices)
        return several, smallest_group(several, len(self.groups)), last_group(members, num_vertices)

    def class_of(self) -> np.ndarray:
        """Class of each group; the entry -1 (no group) is `NONE`."""
        ids = [self.classes.class_id(group.label) for group in self.groups]
        return np.array([NONE if i is None else i for i in ids] + [NONE])

    def object_of(self) -> np.ndarray:
        """objectId of each group; the entry -1 (no group) is 0."""
        return np.array([group.object_id for group in self.groups] + [0])

    def thing_index(self, groups: np.ndarray) -> np.ndarray:
        """Positions of groups of countable classes, else `NONE`."""
        names = self.classes.names
        things = [c != NONE and names[c] in self.classes.things for c in self.class_of()]
        return np.where(np.array(things)[groups], groups, NONE)


@pytest.fixture
def case_of(raw_formats: Path, converted: dict[str, tuple[Path, ConversionSummary]], scannetpp_scene: str) -> Case:
    return Case(raw_formats, converted, scannetpp_scene)


def test_all_scenes_of_the_lists_are_converted(
    raw_formats: Path, converted: dict[str, tuple[Path, ConversionSummary]]
) -> None:
    for out, summary in converted.values():
        assert summary.failed == ()
        for split, name in SPLITS.items():
            if not (raw_formats / 'scannetpp' / 'splits' / name).is_file():
                continue
            listed = (raw_formats / 'scannetpp' / 'splits' / name).read_text().split()
            assert [
                entry['scene_id'] for entry in json.loads((out / f'{split}.json').read_text())['data_list']
            ] == listed


def test_label_space_is_the_benchmark(raw_formats: Path, converted: dict[str, tuple[Path, ConversionSummary]]) -> None:
    folder = raw_formats / 'scannetpp' / 'metadata' / 'semantic_benchmark'
    names = (folder / 'top100.txt').read_text().strip().split('\n')
    things = (folder / 'top100_instance.txt').read_text().strip().split('\n')
    stored, ours = LabelSpace.load(str(converted['dslr'][0] / 'label_space.json')), LabelSpace.load('scannetpp100')
    assert list(stored.names) == names
    assert stored.stuff == set(names) - set(things)
    assert stored == ours


@pytest.mark.parametrize('name', CAMERAS)
def test_cameras_and_poses(case_of: Case, name: str) -> None:
    arrays, camera, posed = (
        case_of.arrays,
        case_of.camera(name),
        read_posed_images(case_of.raw / name / 'colmap/images.txt'),
    )
    assert camera.model == case_of.facts[f'{name}_model']
    np.testing.assert_array_equal(camera.size, arrays[f'{name}_size'])
    np.testing.assert_array_equal(camera.matrix, arrays[f'{name}_K'])
    np.testing.assert_array_equal(camera.coefficients, arrays[f'{name}_params'][4:])
    expected = dict(zip(arrays[f'{name}_names'].tolist(), arrays[f'{name}_w2c'], strict=True))
    assert sorted(image.name for image in posed) == sorted(expected)
    for image in posed:
        np.testing.assert_allclose(np.linalg.inv(image.camera_to_world), expected[image.name], atol=1e-9)


def test_undistorted_dslr_camera_is_the_official_one(case_of: Case, scannetpp_scene: str) -> None:
    official = json.loads((case_of.expected / f'{scannetpp_scene}_transforms_undistorted.json').read_text())
    target = case_of.camera('dslr').undistorted
    np.testing.assert_array_equal(target.matrix, case_of.arrays['dslr_undistorted_K'])
    assert [official[key] for key in ('fl_x', 'fl_y', 'cx', 'cy')] == target.matrix[[0, 1, 0, 1], [0, 1, 2, 2]].tolist()
    stored = {frame['id']: frame for frame in case_of.scene['dslr']['frames']}
    official_frames = {
        Path(frame['file_path']).stem: frame for frame in [*official['frames'], *official.get('test_frames', [])]
    }
    for frame_id, frame in stored.items():
        assert frame['color_size'] == frame['depth_size'] == [official['w'], official['h']]
        expected = target.matrix - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
        np.testing.assert_allclose(frame['color_intrinsics'], expected, rtol=1e-12)
        np.testing.assert_allclose(frame['depth_intrinsics'], expected, rtol=1e-12)
        # The official file has OpenGL's camera axes and its world turned: (x, y, z) -> (y, x, -z).
        turned = np.array(frame['camera_to_world'])[[1, 0, 2, 3]] * [[1], [1], [-1], [1]] * [1, -1, -1, 1]
        np.testing.assert_allclose(turned, official_frames[frame_id]['transform_matrix'], atol=1e-6)


def test_stored_frames(case_of: Case) -> None:
    """All registered images but those marked bad, in the order of their names."""
    for name in CAMERAS:
        transforms = json.loads((case_of.raw / name / 'nerfstudio' / 'transforms.json').read_text())
        frames = [*transforms['frames'], *transforms.get('test_frames', [])]
        bad = {Path(frame['file_path']).stem for frame in frames if frame.get('is_bad', False)}
        assert name == 'iphone' or bad == {Path(file).stem for file in case_of.facts['dslr_is_bad']}
        names = sorted(case_of.posed(name))
        prefix = '' if name == 'dslr' else 'frame_'
        assert [f'{prefix}{frame["id"]}' for frame in case_of.scene[name]['frames']] == sorted({*names} - bad)
        report = case_of.scene[name]['report']
        assert report['frames_total'] == len(names)
        assert [f'{prefix}{frame_id}' for frame_id in report['frames_marked_bad']] == sorted(bad & {*names})
    assert sorted(case_of.posed('iphone')) == case_of.facts['iphone_frames_in_colmap']


def test_official_undistortion_of_dslr_images(case_of: Case) -> None:
    """With the official handling of pixel centres the images are the official ones, bit by bit."""
    camera = case_of.camera('dslr')
    official = Undistortion(camera, camera.undistorted, pixel_centre=0)
    compared = 0
    for key in case_of.arrays:
        match = re.fullmatch(r'dslr_undistorted_(\w+)_(rgb|mask)', key)
        if match is None:
            continue
        compared += 1
        expected = case_of.arrays[key]
        if match[2] == 'rgb':
            image = cv2.imread(str(case_of.raw / 'dslr/resized_images' / f'{match[1]}.JPG'))
            np.testing.assert_array_equal(official.color(image)[..., ::-1], expected)
        else:
            mask = cv2.imread(str(case_of.raw / 'dslr/resized_anon_masks' / f'{match[1]}.png'), cv2.IMREAD_UNCHANGED)
            # Versions of OpenCV round weights of a few thousandths to 0 or not.
            assert _rare(official.mask(mask) != expected)
    assert compared


def test_pixel_centres_of_dslr_images_fit_the_mesh(case_of: Case) -> None:
    """The difference that we make: the official images are shifted against what the official camera sees.

    Oracle: the depth of the mesh as the fisheye sees it, undistorted, against that as the pinhole sees it.
    """
    camera = case_of.camera('dslr')
    ours = Undistortion(camera, camera.undistorted)
    official = Undistortion(camera, camera.undistorted, pixel_centre=0)
    wrong = np.zeros(2)
    for name in _views(case_of, 'dslr'):
        seen = case_of.arrays[f'raster_dslr_fisheye_{name}_depth_mm']
        truth = case_of.arrays[f'raster_dslr_undistorted_{name}_depth_mm'].astype(int)
        wrong += [np.mean(np.abs(undistortion.nearest(seen) - truth)) for undistortion in (ours, official)]
    assert wrong[0] < wrong[1]


def test_vertex_labels(case_of: Case) -> None:
    arrays = case_of.arrays
    several, chosen, last = case_of.labels()
    class_of, object_of = case_of.class_of(), case_of.object_of()
    np.testing.assert_array_equal((several >= 0).sum(1), arrays['vert_num_labels'])
    np.testing.assert_array_equal(class_of[several], arrays['vert_multi_semantic'])
    np.testing.assert_array_equal(case_of.thing_index(several), arrays['vert_multi_instance_index'])
    np.testing.assert_array_equal(class_of[chosen], arrays['vert_semantic'])
    things = case_of.thing_index(chosen)
    np.testing.assert_array_equal(things, arrays['vert_instance_index'])
    objects = np.where(things == NONE, NONE, object_of[np.maximum(things, -1)])
    np.testing.assert_array_equal(objects, arrays['vert_instance_objectId'])
    np.testing.assert_array_equal(object_of[last], arrays['vert_objectId_last_group'])
    # The official evaluation file takes the first group for "nothing".
    evaluated = np.where(things > 0, class_of[chosen] * 1000 + things, 0)
    np.testing.assert_array_equal(evaluated, arrays['gt_instance_file'])


def test_stored_mesh_and_objects(case_of: Case) -> None:
    arrays, classes, scene = case_of.arrays, case_of.classes, case_of.scene['dslr']
    np.testing.assert_array_equal(case_of.mesh('vertices'), arrays['vert_xyz'])
    np.testing.assert_array_equal(case_of.mesh('colors'), arrays['vert_rgb'])
    assert case_of.mesh('faces').shape == (case_of.facts['num_faces'], 3)
    lines = (case_of.raw / 'scans/mesh_aligned_0.05_mask.txt').read_text().split()
    assert np.flatnonzero(case_of.mesh('excluded')).tolist() == sorted({int(line) for line in lines})

    records = scene['instances']
    expected = [(fact['index'] + 1, fact['objectId'], fact['raw_label']) for fact in case_of.facts['groups']]
    assert [(record['id'], record['object_id'], record['raw_category']) for record in records] == expected
    for fact, record in zip(case_of.facts['groups'], records, strict=True):
        if fact['semantic'] is not None:
            assert record['scannetpp_id'] == fact['semantic']
            assert case_of.label_space.describe([case_of.label_space.category_of(record)]) == [fact['name']]
    category = np.array([-1] + [case_of.label_space.category_of(record) for record in records])
    instance = case_of.mesh('instance')
    np.testing.assert_array_equal(np.where(category[instance] < 0, NONE, category[instance]), arrays['vert_semantic'])
    thing = np.append(~case_of.label_space.is_stuff.numpy(), False)[category[instance]]
    np.testing.assert_array_equal(np.where(thing, instance - 1, NONE), arrays['vert_instance_index'])
    found, counts = np.unique(category[instance], return_counts=True)
    histogram = dict(zip(case_of.label_space.describe(found.tolist()), counts.tolist(), strict=True))
    histogram['ignore'] = histogram.pop('void', 0)
    assert histogram == case_of.facts['semantic_histogram']
    things = {classes.names[c] for c in found if c >= 0 and classes.names[c] in classes.things}
    assert sorted(things) == sorted(case_of.facts['things'])


def _rare(wrong: np.ndarray) -> bool:
    """Single rays along edges may fall to either side."""
    return np.count_nonzero(wrong) <= 2 + 1e-4 * wrong.size


def _views(case_of: Case, camera: str) -> list[str]:
    names = [Path(view).stem for view in case_of.facts[f'{camera}_raster_views']]
    assert names
    return names


@pytest.mark.parametrize('kind', ['dslr_fisheye', 'dslr_undistorted', 'iphone'])
def test_views_of_the_mesh(case_of: Case, kind: str) -> None:
    """All labels of the same pixel; depth to the rounding. Distorted images are seen along their own rays."""
    camera, posed = case_of.camera(kind.split('_')[0]), case_of.posed(kind.split('_')[0])
    if kind == 'dslr_undistorted':
        camera = camera.undistorted
    _, chosen, last = case_of.labels()
    class_of, object_of = case_of.class_of(), case_of.object_of()
    rays, mesh = camera.rays(), (case_of.mesh('vertices'), case_of.mesh('faces'))
    by_last, by_chosen = MeshRasteriser(*mesh, last + 1), MeshRasteriser(*mesh, chosen + 1)
    for name in _views(case_of, kind.split('_')[0]):
        expected = {
            key.removeprefix(f'raster_{kind}_{name}_'): case_of.arrays[key]
            for key in case_of.arrays
            if key.startswith(f'raster_{kind}_{name}_')
        }
        stable = expected.pop('stable')
        depth, label = by_last.view(rays, posed[name].camera_to_world)
        wrong_depth = np.abs(to_millimetres(depth).astype(int) - expected.pop('depth_mm')) > 1
        _, groups = by_chosen.view(rays, posed[name].camera_to_world)
        found = {
            'objectId_last_group': object_of[label - 1],
            'semantic': class_of[groups - 1],
            'instance_index': case_of.thing_index(groups - 1),
        }
        assert found.keys() == expected.keys()
        for wrong in (wrong_depth, *(found[key] != expected[key] for key in found)):
            assert not wrong[stable].any()
            assert _rare(wrong)


def test_stored_depth_and_instance_maps_of_the_dslr(case_of: Case) -> None:
    frames = {frame['id']: frame for frame in case_of.scene['dslr']['frames']}
    object_of = np.array([0] + [record['object_id'] for record in case_of.scene['dslr']['instances']])
    for name in _views(case_of, 'dslr'):
        if name not in frames:
            continue  # marked bad
        frame = frames[name]
        valid = (
            np.full(frame['color_size'][::-1], True)
            if frame['mask'] is None
            else case_of.image('dslr', frame['mask']) == 255
        )
        prefix = f'raster_dslr_undistorted_{name}'
        depth, instance = case_of.image('dslr', frame['depth']), case_of.image('dslr', frame['instance'])
        assert (depth.dtype, instance.dtype) == (np.uint16, np.uint16)
        assert not depth[~valid].any()
        assert not instance[~valid].any()
        wrong = np.abs(depth.astype(int) - case_of.arrays[f'{prefix}_depth_mm']) > 1
        wrong |= object_of[instance] != case_of.arrays[f'{prefix}_objectId_last_group']
        assert not wrong[valid & case_of.arrays[f'{prefix}_stable']].any()
        assert _rare(wrong & valid)
        if frame['mask'] is not None and f'dslr_undistorted_{name}_mask' in case_of.arrays:
            # The same region but for the half pixel of the official tools, which is 1.5 pixels near the corners.
            official, around = case_of.arrays[f'dslr_undistorted_{name}_mask'], np.ones((7, 7), np.uint8)
            assert not (valid & (cv2.dilate(official, around) == 0)).any()
            assert not (~valid & (cv2.erode(official, around) == 255)).any()


def test_instance_maps_under_the_rule_for_3d(
    raw_formats: Path, case_of: Case, scannetpp_scene: str, tmp_path: Path
) -> None:
    (tmp_path / 'nvs_sem_val.txt').write_text(scannetpp_scene)
    convert_scannetpp(raw_formats / 'scannetpp', tmp_path / 'out', image_labels='3d', splits=tmp_path)
    folder = tmp_path / 'out' / 'scenes' / scannetpp_scene
    frames = {frame['id']: frame for frame in json.loads((folder / 'scene.json').read_text())['frames']}
    class_of = np.roll(case_of.class_of(), 1)  # by id: 0 = nothing
    for name in [name for name in _views(case_of, 'dslr') if name in frames]:
        instance = cv2.imread(str(folder / frames[name]['instance']), cv2.IMREAD_UNCHANGED)
        valid = case_of.arrays[f'raster_dslr_undistorted_{name}_stable']
        if frames[name]['mask'] is not None:
            valid = valid & (cv2.imread(str(folder / frames[name]['mask']), cv2.IMREAD_UNCHANGED) == 255)
        expected = case_of.arrays[f'raster_dslr_undistorted_{name}_semantic']
        np.testing.assert_array_equal(class_of[instance][valid], expected[valid])
        index = case_of.thing_index(instance.astype(int) - 1)
        np.testing.assert_array_equal(
            index[valid], case_of.arrays[f'raster_dslr_undistorted_{name}_instance_index'][valid]
        )


def test_stored_iphone_maps_are_the_distorted_ones_straightened(case_of: Case) -> None:
    """Oracle: the official labels of the distorted image; each stored pixel looks up where its ray falls."""
    camera, scene = case_of.camera('iphone'), case_of.scene['iphone']
    fx, fy, cx, cy, k1, k2, p1, p2 = case_of.arrays['iphone_params']
    frames = {f'frame_{frame["id"]}': frame for frame in scene['frames']}
    object_of = np.array([0] + [record['object_id'] for record in scene['instances']])
    for name in [name for name in _views(case_of, 'iphone') if name in frames]:
        frame = frames[name]
        (width, height), intrinsics = frame['color_size'], np.array(frame['color_intrinsics'])
        assert (width, height) == camera.size
        x = (np.arange(width) - intrinsics[0, 2]) / intrinsics[0, 0]
        y = (np.arange(height)[:, None] - intrinsics[1, 2]) / intrinsics[1, 1]
        r = x * x + y * y
        bend = 1 + k1 * r + k2 * r * r
        u = fx * (x * bend + 2 * p1 * x * y + p2 * (r + 2 * x * x)) + cx - 0.5
        v = fy * (y * bend + p1 * (r + 2 * y * y) + 2 * p2 * x * y) + cy - 0.5
        inside = (u > -0.5) & (u < width - 0.5) & (v > -0.5) & (v < height - 0.5)
        assert inside.mean() > 0.95
        at = np.rint(v).astype(int).clip(0, height - 1), np.rint(u).astype(int).clip(0, width - 1)
        valid = case_of.arrays[f'raster_iphone_{name}_stable'][at] & inside
        if frame['mask'] is not None:
            valid &= case_of.image('iphone', frame['mask']) == 255
        expected = case_of.arrays[f'raster_iphone_{name}_objectId_last_group'][at]
        found = object_of[case_of.image('iphone', frame['instance'])]
        np.testing.assert_array_equal(found[valid], expected[valid])


def test_iphone_depth(case_of: Case) -> None:
    """Every frame as the official tool gives it. That cuts float metres off; we round them."""
    arrays, hashes = case_of.arrays, case_of.facts['iphone_depth_sha256']
    stored = {int(frame['id']): frame for frame in case_of.scene['iphone']['frames']}
    expected = dict(zip(arrays['iphone_depth_index'].tolist(), arrays['iphone_depth_mm'], strict=True))
    with IPhoneDepthReader(case_of.raw / 'iphone' / 'depth.bin') as reader:
        for index in range(case_of.facts['iphone_depth_frames']):
            depth = reader.read(index)
            official = depth if depth.dtype == np.uint16 else (depth * 1000).astype(np.uint16)
            assert hashlib.sha256(official.tobytes()).hexdigest() == hashes[index]
            if index in expected:
                np.testing.assert_array_equal(official, expected[index])
            ours = depth if depth.dtype == np.uint16 else to_millimetres(depth)
            assert np.isin(ours.astype(int) - official, [0, 1]).all()
            if index in stored:
                image = case_of.image('iphone', stored[index]['depth'])
                assert image.dtype == np.uint16
                assert image.shape == depth.shape
                assert np.isin(image[image > 0], ours).all()  # moved, not mixed
        with pytest.raises(ValueError, match=rf'depth.bin: frame {len(hashes)}: '):
            reader.read(len(hashes))


def test_stored_iphone_depth_is_that_of_the_mesh(case_of: Case) -> None:
    """The made-up sensor measures the mesh: what is stored must fit the mesh seen by the stored camera."""
    rasteriser = MeshRasteriser(case_of.mesh('vertices'), case_of.mesh('faces'), case_of.mesh('instance'))
    for frame in case_of.scene['iphone']['frames']:
        stored = case_of.image('iphone', frame['depth']).astype(float)
        intrinsics, size = np.array(frame['depth_intrinsics']), tuple(frame['depth_size'])
        depth, _ = rasteriser.pinhole_view(intrinsics, size, np.array(frame['camera_to_world']))
        both = (stored > 0) & (depth > 0)
        assert both.mean() > 0.5
        assert np.median(np.abs(stored[both] / 1000 - depth[both]) / depth[both]) < 0.02


def test_iphone_frames_from_files_and_from_the_video(case_of: Case, tmp_path: Path) -> None:
    size, means = case_of.camera('iphone').size, case_of.facts['iphone_rgb_mean']
    if not (case_of.raw / 'iphone' / 'rgb.mkv').is_file():
        pytest.skip('a recording without its video')
    names = [PosedImage(f'video/frame_{index:06d}.jpg', 1, np.eye(4)) for index in range(len(means))]
    images = [IPhoneImages(PPScan(case_of.raw, 'iphone')).color(name, size) for name in names]
    lossy = not (case_of.raw / 'iphone' / 'rgb').is_dir()  # what has been read from the video itself
    np.testing.assert_allclose([image.mean((0, 1))[::-1] for image in images], means, atol=5 if lossy else 1)

    shutil.copytree(case_of.raw / 'iphone', tmp_path / 'iphone', ignore=shutil.ignore_patterns('rgb'))
    video = IPhoneImages(PPScan(tmp_path, 'iphone'))
    for index in reversed(range(len(means))):
        # The video may be lossy, but a frame of it is nearest to the file of the same number.
        frame = video.color(names[index], size).astype(int)
        distances = [np.mean((frame - image) ** 2) for image in images]
        assert np.argmin(distances) == index


COMPARED = (
    r'vert_(xyz|rgb|semantic|instance_index|instance_objectId|num_labels|objectId_last_group)',
    r'vert_multi_(semantic|instance_index)|gt_instance_file',
    r'(dslr|iphone)_(names|w2c|K|params|size)|dslr_undistorted_(K|\w+_rgb|\w+_mask)',
    r'raster_(dslr_fisheye|dslr_undistorted|iphone)_\w+_(depth_mm|objectId_last_group|semantic|instance_index|stable)',
    r'iphone_depth_(index|mm)',
)
NOT_READ = {'iphone_c2w_true', 'iphone_aligned_pose'}  # poses that drift; COLMAP has better ones


def test_every_array_is_compared(case_of: Case) -> None:
    left = [key for key in case_of.arrays if not any(re.fullmatch(pattern, key) for pattern in COMPARED)]
    assert set(left) <= NOT_READ


def _tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob('*')}


def test_damaged_release(raw_formats: Path, tmp_path: Path, scannetpp_case: dict[str, Any]) -> None:
    raw, out = tmp_path / 'raw', tmp_path / 'deeper' / 'out'
    shutil.copytree(raw_formats / 'broken' / 'base' / 'scannetpp', raw)
    overlay = raw_formats / 'broken' / 'cases' / scannetpp_case['id'] / 'scannetpp'
    if overlay.is_dir():
        shutil.copytree(overlay, raw, dirs_exist_ok=True)
    for name in scannetpp_case.get('remove', []):
        (raw / Path(name).relative_to('scannetpp')).unlink()
    before, target = _tree(tmp_path), scannetpp_case['target_scene']
    messages, finished, refused, warned = '', {}, False, False
    tracemalloc.start()
    for camera in CAMERAS:
        try:
            summary = convert_scannetpp(raw, out / camera, camera=camera)
        except ValueError as error:
            assert scannetpp_case['outcome'] == 'run_error'
            messages += str(error)
            assert not (out / camera).exists()
            continue
        messages += summary.describe()
        finished[camera] = {result.scene_id for result in summary.finished}
        assert set(scannetpp_case.get('other_scenes', [])) <= finished[camera]
        refused |= target not in finished[camera]
        if target in finished[camera]:
            report = json.loads((out / camera / 'scenes' / target / 'scene.json').read_text())['report']
            warned |= bool(report['warnings'])
            if camera == 'iphone':  # where positions are frame numbers
                assert {int(frame) for frame in report['frames_damaged']} <= set(scannetpp_case.get('bad_frames', []))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
    assert all(re.search(pattern, messages, re.IGNORECASE) for pattern in scannetpp_case['message_should_mention']), (
        messages
    )
    assert all(name.startswith('deeper') for name in _tree(tmp_path) - before)
    assert refused or {'scene_error': False, 'run_error': not finished}.get(scannetpp_case['outcome'], warned)
    if scannetpp_case['outcome'] == 'converted_with_warning':
        assert not refused
