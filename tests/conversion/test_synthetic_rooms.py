"""Made-up rooms as files: what is written is read back and compared with independent computations."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from plyfile import PlyData

from pano3d.conversion import SensReader, convert_scannet
from pano3d.conversion.synthetic_rooms import (
    Recording,
    RecordingOptions,
    build_room,
    scene_name,
    write_room,
    write_rooms,
)
from pano3d.conversion.synthetic_rooms.appearance import typical_colors
from pano3d.conversion.synthetic_rooms.categories import RAW_CATEGORIES, SHELL

SEED = 5
SMALL = RecordingOptions(num_frames=4, color_size=(40, 30), depth_size=(32, 24), spacing=0.3)
EXACT = RecordingOptions(num_frames=6, color_size=(64, 48), depth_size=(52, 40), color_noise=0, depth_noise=0)
BENCHMARK_NYU40 = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 24, 28, 33, 34, 36, 39}


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


class Scan:
    """A written scan, read with nothing of the writer."""

    def __init__(self, root: Path, index: int) -> None:
        self.name = scene_name(index)
        folder = root / 'scans' / self.name
        with SensReader(folder / f'{self.name}.sens') as reader:
            self.header = reader.header
            frames = list(reader.frames())
            self.depth = [reader.decode_depth(frame) for frame in frames]
        self.poses = np.stack([frame.camera_to_world for frame in frames])
        self.color = [cv2.imdecode(np.frombuffer(frame.color, np.uint8), cv2.IMREAD_COLOR) for frame in frames]
        self.labels = self._images(folder / f'{self.name}_2d-label-filt.zip', 'label-filt')
        self.instances = self._images(folder / f'{self.name}_2d-instance-filt.zip', 'instance-filt')
        self.meta = dict(line.split(' = ') for line in (folder / f'{self.name}.txt').read_text().splitlines())
        self.axis_alignment = np.array(self.meta['axisAlignment'].split(), float).reshape(4, 4)
        self.ply = PlyData.read(folder / f'{self.name}_vh_clean_2.ply')
        self.labels_ply = PlyData.read(folder / f'{self.name}_vh_clean_2.labels.ply')
        vertex = self.ply['vertex']
        self.vertices = np.stack([vertex['x'], vertex['y'], vertex['z']], axis=1)
        self.faces = np.vstack(self.ply['face']['vertex_indices'])
        segments = json.loads((folder / f'{self.name}_vh_clean_2.0.010000.segs.json').read_text())
        self.segment_of_vertex = np.array(segments['segIndices'])
        self.groups = json.loads((folder / f'{self.name}.aggregation.json').read_text())['segGroups']

    def _images(self, path: Path, folder: str) -> list[np.ndarray]:
        with zipfile.ZipFile(path) as archive:
            names = [f'{folder}/{number}.png' for number in range(len(self.poses))]
            assert archive.namelist() == names
            return [cv2.imdecode(np.frombuffer(archive.read(name), np.uint8), cv2.IMREAD_UNCHANGED) for name in names]

    @property
    def object_of_vertex(self) -> np.ndarray:
        """objectId + 1 through segments and groups, 0 where there is none."""
        owner = {segment: group['objectId'] + 1 for group in self.groups for segment in group['segments']}
        return np.array([owner.get(segment, 0) for segment in self.segment_of_vertex.tolist()])

    @property
    def aligned_vertices(self) -> np.ndarray:
        return self.vertices @ self.axis_alignment[:3, :3].T + self.axis_alignment[:3, 3]


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('exact')
    write_rooms(root, train=5, val=1, seed=SEED, options=EXACT, show_progress=False)
    return root


@pytest.fixture(scope='module', params=range(6))
def scan(request, root) -> Scan:
    return Scan(root, request.param)


@pytest.fixture(scope='module')
def room(scan):
    return build_room(SEED, int(scan.name[5:9]) - 5000, spacing=EXACT.spacing)


def test_same_bytes_again_with_other_numbers_of_rooms_and_workers(tmp_path):
    write_rooms(tmp_path / 'one', train=2, val=1, seed=2, options=SMALL, num_workers=1, show_progress=False)
    write_rooms(tmp_path / 'two', train=3, val=2, seed=2, options=SMALL, num_workers=2, show_progress=False)
    write_rooms(tmp_path / 'other', train=3, val=0, seed=3, options=SMALL, num_workers=1, show_progress=False)
    one, two, other = (digests(tmp_path / name / 'scans') for name in ('one', 'two', 'other'))
    assert len(one) == 3 * 8 and len(two) == 5 * 8
    assert one == {path: two[path] for path in one}
    assert all(one[path] != other[path] for path in one)


def test_depth_where_the_room_itself_is_seen_is_the_exit_point_of_its_box(scan, room):
    """Slab method from inside the room; also no depth lies behind the walls."""
    if room.plan.notch != (0.0, 0.0):
        pytest.skip('not a box')
    width, height = scan.header.depth_size
    shell = np.isin([RAW_CATEGORIES[group['label']].nyu40_id for group in scan.groups], [1, 2, 22])
    walls = np.isin(scan.object_of_vertex - 1, np.flatnonzero(shell))
    low, high = scan.aligned_vertices[walls].min(0), scan.aligned_vertices[walls].max(0)
    compared = 0
    for pose, depth, instances in zip(scan.poses, scan.depth, scan.instances, strict=True):
        camera = scan.axis_alignment @ pose
        x, y = np.meshgrid(np.arange(width), np.arange(height))
        k = scan.header.depth_intrinsics
        local = np.stack([(x - k[0, 2]) / k[0, 0], (y - k[1, 2]) / k[1, 1], np.ones_like(x)], axis=-1)
        direction = local @ camera[:3, :3].T
        with np.errstate(divide='ignore'):
            exit_depth = (np.where(direction > 0, high, low) - camera[:3, 3]) / direction
        expected = exit_depth.min(-1) * 1000
        assert (depth <= expected + 1).all()
        # The colour pixels around each depth pixel all show walls, floor or ceiling.
        kc = scan.header.color_intrinsics
        u = np.rint(local[..., 0] * kc[0, 0] + kc[0, 2]).astype(int)
        v = np.rint(local[..., 1] * kc[1, 1] + kc[1, 2]).astype(int)
        is_shell = np.pad(shell[instances - 1].astype(np.uint8), 1, constant_values=0)
        surely = cv2.erode(is_shell, np.ones((3, 3), np.uint8))[1:-1, 1:-1]
        inside = (u >= 0) & (v >= 0) & (u < instances.shape[1]) & (v < instances.shape[0])
        sure = np.zeros_like(inside)
        sure[inside] = surely[v[inside], u[inside]] > 0
        wrong = np.abs(depth[sure] - expected[sure]) > 1
        # A chair leg can hide between the colour rays.
        assert wrong.mean() < 0.02
        compared += sure.sum()
    assert compared > 500


def test_instance_and_label_images_show_the_first_labelled_face_of_the_mesh(scan):
    """Moeller-Trumbore against every face, for some pixels of each view."""
    rng = np.random.default_rng(0)
    k, (width, height) = scan.header.color_intrinsics, scan.header.color_size
    first, edge1, edge2 = (
        scan.vertices[scan.faces[:, 0]].astype(float),
        (scan.vertices[scan.faces[:, 1]] - scan.vertices[scan.faces[:, 0]]).astype(float),
        (scan.vertices[scan.faces[:, 2]] - scan.vertices[scan.faces[:, 0]]).astype(float),
    )
    object_of_face = scan.object_of_vertex[scan.faces]
    assert (object_of_face == object_of_face[:, :1]).all()
    ids = np.array([0] + [RAW_CATEGORIES[group['label']].scannet_id for group in scan.groups])
    compared = 0
    for pose, instances in zip(scan.poses, scan.instances, strict=True):
        for _ in range(12):
            u, v = rng.integers(width), rng.integers(height)
            ray = pose[:3, :3] @ np.array([(u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1], 1.0])
            across = np.cross(ray, edge2)
            determinant = (edge1 * across).sum(1)
            with np.errstate(divide='ignore', invalid='ignore'):
                offset = pose[:3, 3] - first
                s = (offset * across).sum(1) / determinant
                turned = np.cross(offset, edge1)
                t = (turned @ ray) / determinant
                distance = (turned * edge2).sum(1) / determinant
            hit = (s >= -1e-6) & (t >= -1e-6) & (s + t <= 1 + 1e-6) & (distance > 1e-6)
            nearest = np.where(hit, distance, np.inf).min()
            candidates = set(object_of_face[hit & (distance < nearest + 1e-4), 0].tolist())
            assert instances[v, u] in candidates
            compared += len(candidates) == 1
    assert compared > 60
    for instances, labels in zip(scan.instances, scan.labels, strict=True):
        assert instances.dtype == np.uint8 and labels.dtype == np.uint16
        np.testing.assert_array_equal(labels, ids[instances])


def test_poses_are_rigid_and_stand_in_free_space(scan, room):
    rotation = scan.poses[:, :3, :3].astype(float)
    np.testing.assert_allclose(
        rotation @ rotation.transpose(0, 2, 1), np.broadcast_to(np.eye(3), rotation.shape), atol=1e-6
    )
    np.testing.assert_allclose(np.linalg.det(rotation), 1, atol=1e-6)
    aligned = scan.axis_alignment @ scan.poses
    position, view = aligned[:, :3, 3], aligned[:, :3, 2]
    assert ((position[:, 2] > 1.2) & (position[:, 2] < 1.8)).all()
    assert (view[:, 2] < 0).all()  # a little downwards
    assert (aligned[:, 2, 1] < 0).all()  # the image is not upside down
    assert room.plan.contains(position[:, :2], margin=0.1).all()
    for item in room.items:
        offset = position[:, :2] - item.box[:2]
        cosine, sine = np.cos(item.box[2]), np.sin(item.box[2])
        x, y = offset @ np.array([cosine, sine]), offset @ np.array([-sine, cosine])
        in_height = (position[:, 2] > item.box[5]) & (position[:, 2] < item.box[6])
        assert not ((np.abs(x) < item.box[3]) & (np.abs(y) < item.box[4]) & in_height).any()


def test_neighbouring_views_overlap(scan):
    """Share of depth points that fall into the next view."""
    (width, height), k = scan.header.depth_size, scan.header.depth_intrinsics
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    shares = []
    for index in range(len(scan.poses) - 1):
        z = scan.depth[index] / 1000
        points = np.stack([(x - k[0, 2]) / k[0, 0] * z, (y - k[1, 2]) / k[1, 1] * z, z, np.ones_like(z)], axis=-1)
        moved = points @ (np.linalg.inv(scan.poses[index + 1]) @ scan.poses[index]).T
        u, v = moved[..., 0] / moved[..., 2] * k[0, 0] + k[0, 2], moved[..., 1] / moved[..., 2] * k[1, 1] + k[1, 2]
        shares.append(((moved[..., 2] > 0) & (u > 0) & (v > 0) & (u < width - 1) & (v < height - 1)).mean())
    assert 0.5 < np.mean(shares) < 0.95


def test_annotation_covers_every_vertex_once(scan, root):
    segments = [segment for group in scan.groups for segment in group['segments']]
    assert len(segments) == len(set(segments))
    assert set(segments) == set(scan.segment_of_vertex.tolist())
    assert len(scan.segment_of_vertex) == len(scan.vertices) == len(scan.labels_ply['vertex'])
    assert [group['objectId'] for group in scan.groups] == list(range(len(scan.groups)))
    with open(root / 'scannetv2-labels.combined.tsv', newline='') as file:
        rows = {row['raw_category']: row for row in csv.DictReader(file, delimiter='\t')}
    nyu40 = np.array([0] + [int(rows[group['label']]['nyu40id']) for group in scan.groups])
    np.testing.assert_array_equal(scan.labels_ply['vertex']['label'], nyu40[scan.object_of_vertex])
    np.testing.assert_array_equal(np.vstack(scan.labels_ply['face']['vertex_indices']), scan.faces)
    assert (scan.ply['vertex']['alpha'] == 255).all()


def test_text_file_and_stream_agree_and_the_two_cameras_differ(scan):
    for camera in ('color', 'depth'):
        k = getattr(scan.header, f'{camera}_intrinsics')
        written = [float(scan.meta[f'{key}_{camera}']) for key in ('fx', 'fy', 'mx', 'my')]
        np.testing.assert_allclose(written, [k[0, 0], k[1, 1], k[0, 2], k[1, 2]], atol=1e-5)
        assert getattr(scan.header, f'{camera}_size') == (
            int(scan.meta[f'{camera}Width']),
            int(scan.meta[f'{camera}Height']),
        )
        width = getattr(scan.header, f'{camera}_size')[0]
        assert 55 < np.degrees(2 * np.arctan(width / 2 / k[0, 0])) < 68
    assert scan.header.color_size != scan.header.depth_size
    assert abs(scan.header.color_intrinsics[0, 0] - scan.header.depth_intrinsics[0, 0]) > 1
    np.testing.assert_allclose(scan.axis_alignment[:3, :3] @ scan.axis_alignment[:3, :3].T, np.eye(3), atol=1e-5)
    assert np.abs(scan.axis_alignment - np.eye(4)).max() > 0.05


def test_vertex_colors_are_those_of_the_images(scan):
    """The median colour of an object's visible vertices is that of its pixels, up to texture and compression."""
    rgb = np.stack([scan.ply['vertex'][channel] for channel in ('red', 'green', 'blue')], axis=1).astype(float)
    pairs = []
    for pose, color, depth, instances in zip(scan.poses, scan.color, scan.depth, scan.instances, strict=True):
        local = (scan.vertices - pose[:3, 3]) @ pose[:3, :3]
        u, v, seen = project(local, scan.header.color_intrinsics, scan.header.color_size)
        du, dv, in_depth = project(local, scan.header.depth_intrinsics, scan.header.depth_size)
        seen &= in_depth & (np.abs(depth[dv, du] / 1000 - local[:, 2]) < 0.05)
        seen &= instances[v, u] == scan.object_of_vertex
        for number in np.unique(scan.object_of_vertex[seen]):
            mine = seen & (scan.object_of_vertex == number)
            if mine.sum() > 40:
                pairs.append((np.median(rgb[mine], axis=0), np.median(color[v[mine], u[mine], ::-1], axis=0)))
    vertex, image = np.array(pairs).transpose(1, 0, 2)
    assert len(pairs) > 10
    assert np.median(np.abs(vertex - image)) < 12


def project(
    points: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nearest pixel of camera points (0, 0 where outside the image), and which are inside."""
    with np.errstate(divide='ignore', invalid='ignore'):
        u, v = (points[:, axis] / points[:, 2] * intrinsics[axis, axis] + intrinsics[axis, 2] for axis in (0, 1))
    inside = (points[:, 2] > 0.1) & (u > 0) & (v > 0) & (u < size[0] - 1) & (v < size[1] - 1)
    return np.rint(np.where(inside, u, 0)).astype(int), np.rint(np.where(inside, v, 0)).astype(int), inside


def test_splits_extend_and_scenes_are_kept_or_completed(tmp_path):
    def run(train: int) -> None:
        write_rooms(tmp_path, train=train, val=1, seed=1, options=SMALL, show_progress=False)

    run(1)
    lists = tmp_path / 'Tasks' / 'Benchmark'
    assert (lists / 'scannetv2_val.txt').read_text() == 'scene5000_00\n'
    before = digests(tmp_path / 'scans')
    kept = tmp_path / 'scans' / 'scene5001_00' / 'scene5001_00.txt'
    time = kept.stat().st_mtime_ns
    unfinished = tmp_path / 'scans' / '.scene5002_00.unfinished'
    unfinished.mkdir()
    (unfinished / 'rest').write_text('of a stopped run')
    run(2)
    assert (lists / 'scannetv2_val.txt').read_text() == 'scene5000_00\n'
    assert (lists / 'scannetv2_train.txt').read_text() == 'scene5001_00\nscene5002_00\n'
    assert kept.stat().st_mtime_ns == time
    assert before.items() < digests(tmp_path / 'scans').items()
    assert sorted(path.name for path in (tmp_path / 'scans').iterdir()) == [scene_name(k) for k in range(3)]
    assert not (tmp_path / 'scans' / 'scene5002_00' / 'rest').exists()


def test_a_scene_that_fails_leaves_nothing_that_looks_finished(tmp_path, monkeypatch):
    def fail(*arguments: object) -> None:
        raise OSError('disk full')

    monkeypatch.setattr('pano3d.conversion.synthetic_rooms.raw_writer._write_annotation', fail)
    with pytest.raises(OSError, match='disk full'):
        write_rooms(tmp_path, train=1, val=0, options=SMALL, show_progress=False)
    assert not (tmp_path / 'scans' / scene_name(0)).exists()


def test_other_settings_and_foreign_scans_are_refused(tmp_path):
    write_rooms(tmp_path / 'a', train=1, val=0, seed=1, options=SMALL, show_progress=False)
    with pytest.raises(ValueError, match='other settings'):
        write_rooms(tmp_path / 'a', train=1, val=0, seed=2, options=SMALL, show_progress=False)
    (tmp_path / 'b' / 'scans' / 'scene0000_00').mkdir(parents=True)
    with pytest.raises(ValueError, match='not made here'):
        write_rooms(tmp_path / 'b', train=1, val=0, options=SMALL, show_progress=False)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'train': 0}, 'expected 1 to'),
        ({'train': 5000}, 'expected 1 to'),
        ({'val': -1}, 'expected 1 to'),
        ({'num_workers': 0}, 'num_workers'),
        ({'seed': -1}, 'seed'),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write_rooms(tmp_path, **{'train': 1, 'val': 0, 'options': SMALL, **change})
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('num_frames', 0),
        ('color_size', (4, 100)),
        ('depth_size', (100, 4)),
        ('spacing', 0.0),
        ('color_noise', -1.0),
        ('depth_noise', -1.0),
        ('depth_dropout', 1.5),
        ('unposed', -0.1),
        ('class_tint', 1.1),
    ],
)
def test_options_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        RecordingOptions(**{name: value})


def test_frames_without_pose_and_pixels_without_depth_have_no_labels(tmp_path):
    options = RecordingOptions(num_frames=12, color_size=(40, 30), depth_size=(40, 30), unposed=0.4, depth_dropout=0.3)
    write_room(tmp_path, 0, seed=0, options=options)
    scan = Scan(tmp_path, 0)
    posed = np.isfinite(scan.poses).all((1, 2))
    assert 0 < posed.sum() < 12
    assert (scan.poses[~posed] == -np.inf).all()
    for has_pose, depth, instances, labels in zip(posed, scan.depth, scan.instances, scan.labels, strict=True):
        assert abs((depth == 0).mean() - 0.3) < 0.06
        np.testing.assert_array_equal(instances == 0, labels == 0)
        if has_pose:
            assert abs((instances == 0).mean() - 0.3) < 0.06
        else:
            assert not instances.any()


def test_sensor_noise_has_the_stated_size(tmp_path):
    """0.5 (0.0012 + 0.0019 (z - 0.4)^2) metres, the model's deviation."""
    options = {'num_frames': 3, 'color_size': (64, 48), 'depth_size': (64, 48), 'color_noise': 0}
    write_room(tmp_path / 'exact', 1, seed=0, options=RecordingOptions(**options, depth_noise=0))
    write_room(tmp_path / 'noisy', 1, seed=0, options=RecordingOptions(**options, depth_noise=5))
    exact, noisy = Scan(tmp_path / 'exact', 1), Scan(tmp_path / 'noisy', 1)
    np.testing.assert_array_equal(exact.poses, noisy.poses)
    z = np.stack(exact.depth) / 1000
    difference = np.stack(noisy.depth) / 1000 - z
    score = difference / (5 * (0.0012 + 0.0019 * (z - 0.4) ** 2))
    assert abs(score.std() - 1) < 0.05 and abs(score.mean()) < 0.05


def test_class_tint_makes_the_color_of_furniture_tell_its_class_and_leaves_the_shell_alone():
    room = build_room(0, 2, spacing=0.3)
    colors = {
        tint: Recording(
            room, seed=0, index=2, options=RecordingOptions(num_frames=2, color_size=(32, 24), class_tint=tint)
        ).vertex_colors.astype(float)
        for tint in (0.0, 1.0)
    }
    shell = np.isin(np.array(room.categories)[room.mesh.object_of_vertex], ['wall', 'floor', 'ceiling'])
    np.testing.assert_array_equal(colors[0.0][shell], colors[1.0][shell])
    typical = typical_colors(room.categories)[room.mesh.object_of_vertex]
    angle = {
        tint: (color * typical).sum(1)[~shell]
        / (np.linalg.norm(color, axis=1) * np.linalg.norm(typical, axis=1) + 1e-6)[~shell]
        for tint, color in colors.items()
    }
    assert np.median(angle[1.0]) > 0.98 > np.median(angle[0.0])


def test_typical_colors_are_one_per_class_of_furniture_and_apart():
    names = [name for name in RAW_CATEGORIES if name not in SHELL]
    colors = typical_colors(names)
    for first in range(len(names)):
        for second in range(first):
            same = RAW_CATEGORIES[names[first]].nyu40_id == RAW_CATEGORIES[names[second]].nyu40_id
            distance = np.linalg.norm(colors[first] - colors[second])
            assert distance == 0 if same else distance > 0.2


def test_category_table_is_a_complete_tsv(root):
    text = (root / 'scannetv2-labels.combined.tsv').read_text()
    rows = list(csv.reader(io.StringIO(text), delimiter='\t'))
    assert {len(row) for row in rows} == {17}
    assert {int(row[4]) for row in rows[1:]} >= BENCHMARK_NYU40


def test_the_converter_takes_what_is_written(root, tmp_path):
    summary = convert_scannet(root, tmp_path, frame_skip=1, num_workers=1)
    assert not summary.failed and not any(result.warnings for result in summary.results)
    assert [result.num_frames for result in summary.results] == [EXACT.num_frames] * 6
