from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pano3d.conversion import convert_scannet
from pano3d.datasets.scene_record import read_scene

TOOL = Path(__file__).parents[2] / 'tools' / 'prepare_scannet.py'


def scene_of(out: Path, scene_id: str) -> dict[str, Any]:
    return json.loads((out / 'scenes' / scene_id / 'scene.json').read_text())


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def scenes_in(out: Path, split: str) -> list[str]:
    return [entry['scene_id'] for entry in json.loads((out / f'{split}.json').read_text())['data_list']]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / 'out'


def test_stored_scene(release: Any, out: Path) -> None:
    release.add('scene0001_00', 'val', num_frames=7, without_pose=(2, 3))
    release.write_instance_maps('scene0001_00', {0: release.encode(release.instances(0), 'PNG')})
    convert_scannet(release.root, out, frame_skip=2)
    scene, folder = scene_of(out, 'scene0001_00'), out / 'scenes' / 'scene0001_00'

    assert [frame['id'] for frame in scene['frames']] == ['000000', '000004', '000006']
    for frame in scene['frames']:
        index = int(frame['id'])
        assert (folder / frame['color']).read_bytes() == release.color(index)
        depth = np.array(Image.open(folder / frame['depth']))
        assert depth.dtype == np.uint16
        np.testing.assert_array_equal(depth, release.depth(index))
        np.testing.assert_array_equal(np.float32(frame['camera_to_world']), release.pose(index))
        assert (frame['color_size'], frame['depth_size']) == ([32, 24], [16, 12])
        assert frame['color_intrinsics'] == [[32, 0, 15.5], [0, 32, 11.5], [0, 0, 1]]
        assert frame['depth_intrinsics'] == [[16, 0, 7.5], [0, 16, 5.5], [0, 0, 1]]
    assert [frame['instance'] for frame in scene['frames']] == ['instance/000000.png', None, None]
    np.testing.assert_array_equal(np.array(Image.open(folder / 'instance/000000.png')), release.instances(0))

    assert (scene['format'], scene['version'], scene['source']) == ('pano3d-scene', 1, 'scannet_v2')
    assert scene['depth_scale'] == 0.001
    assert scene['axis_alignment'] == [[0, -1, 0, 2], [1, 0, 0, 3], [0, 0, 1, -0.5], [0, 0, 0, 1]]
    assert scene['instances'] == [
        {'id': 1, 'raw_category': 'chair', 'scannet_id': 2, 'nyu40_id': 5},
        {'id': 2, 'raw_category': 'unheard of', 'scannet_id': None, 'nyu40_id': None},
    ]
    report = scene['report']
    assert (report['frames_total'], report['frames_without_pose'], report['frames_damaged']) == (7, ['000002'], [])
    assert report['instance_maps_missing'] == ['000004', '000006']
    assert len(report['warnings']) == 1
    assert "scene0001_00.aggregation.json: the label table has no raw category 'unheard of'" in report['warnings'][0]
    with np.load(folder / scene['mesh']) as mesh:
        assert mesh['vertices'].tolist() == release.vertices
        assert mesh['faces'].tolist() == release.faces
        assert mesh['instance'].tolist() == release.vertex_instances
        assert {key: str(mesh[key].dtype) for key in mesh} == {
            'vertices': 'float32',
            'colors': 'uint8',
            'faces': 'int32',
            'instance': 'int32',
        }


def test_datasets_read_what_is_written(release: Any, out: Path) -> None:
    release.add('scene0000_00')
    release.write_instance_maps('scene0000_00', {2: release.encode(release.instances(2), 'PNG')})
    convert_scannet(release.root, out, frame_skip=2)
    scene = read_scene(str(out / 'scenes' / 'scene0000_00'))
    assert (scene.scene_id, scene.depth_scale, len(scene.instances)) == ('scene0000_00', 0.001, 2)
    assert [frame.id for frame in scene.frames] == ['000000', '000002', '000004']
    assert [frame.instance is None for frame in scene.frames] == [True, False, True]
    np.testing.assert_array_equal(np.array(Image.open(scene.frames[1].depth)), release.depth(2))
    np.testing.assert_array_equal(np.array(Image.open(scene.frames[1].instance)), release.instances(2))
    np.testing.assert_array_equal(scene.frames[1].camera_to_world, release.pose(2))


def test_test_scan_has_no_annotation(release: Any, out: Path) -> None:
    release.add('scene0707_00', 'test')
    convert_scannet(release.root, out, frame_skip=1)
    scene = scene_of(out, 'scene0707_00')
    assert (scene['axis_alignment'], scene['instances']) == (None, [])
    assert [frame['instance'] for frame in scene['frames']] == [None] * 5
    assert (scene['report']['instance_maps_missing'], scene['report']['warnings']) == ([], [])
    assert scenes_in(out, 'test') == ['scene0707_00']


def test_missing_archive_is_reported(release: Any, out: Path) -> None:
    release.add('scene0000_00')
    release.file('scene0000_00', '_2d-instance-filt.zip').unlink()
    summary = convert_scannet(release.root, out, frame_skip=2)
    scene = scene_of(out, 'scene0000_00')
    assert [frame['instance'] for frame in scene['frames']] == [None] * 3
    assert scene['report']['instance_maps_missing'] == ['000000', '000002', '000004']
    assert 'scene0000_00_2d-instance-filt.zip: not there' in summary.describe()


def test_missing_instance_maps_can_be_made_from_the_mesh(release: Any, out: Path) -> None:
    release.add('scene0000_00')
    release.add('scene0707_00', 'test')
    given = release.encode(release.instances(2), 'PNG')
    release.write_instance_maps('scene0000_00', {2: given})
    summary = convert_scannet(release.root, out, frame_skip=1, rasterise_missing=True)
    assert summary.failed == ()
    report, folder = scene_of(out, 'scene0000_00')['report'], out / 'scenes' / 'scene0000_00'
    assert (report['instance_maps_missing'], report['instance_maps_rasterised']) == (
        [],
        ['000000', '000001', '000003', '000004'],
    )
    assert (folder / 'instance/000002.png').read_bytes() == given
    assert scene_of(out, 'scene0707_00')['report']['instance_maps_rasterised'] == []
    seen = set()
    for index in (0, 1, 3, 4):
        stored = np.array(Image.open(folder / f'instance/{index:06d}.png'))
        assert stored.shape == (24, 32)
        expected = seen_instances(release, release.pose(index))
        assert np.mean(stored == expected) > 0.99  # rays along edges hit by chance
        seen |= set(stored.ravel().tolist())
    assert {0, 1} <= seen
    assert [result.reused for result in convert_scannet(release.root, out, frame_skip=1).results] == [False, False]
    assert scene_of(out, 'scene0000_00')['report']['instance_maps_missing'] == ['000000', '000001', '000003', '000004']


def seen_instances(release: Any, pose: np.ndarray) -> np.ndarray:
    """Instances of the release's mesh in the image of its colour camera: every face against every pixel."""
    rows, columns = np.mgrid[:24, :32]
    rays = np.stack([(columns - 15.5) / 32, (rows - 11.5) / 32, np.ones_like(rows)], axis=-1)
    vertices = (np.array(release.vertices, float) - pose[:3, 3]) @ pose[:3, :3]
    nearest, found = np.full(rays.shape[:2], np.inf), np.zeros(rays.shape[:2], int)
    for face in release.faces:
        a, b, c = vertices[face]
        with np.errstate(divide='ignore', invalid='ignore'):
            depth = np.dot(np.cross(b - a, c - a), a) / (rays @ np.cross(b - a, c - a))
            points = rays * depth[..., None]
            sides = [
                np.sum(np.cross(q - p, points - p) * np.cross(b - a, c - a), -1) for p, q in ((a, b), (b, c), (c, a))
            ]
        hit = (np.min(sides, axis=0) >= 0) & (depth > 0) & (depth < nearest)
        nearest[hit], found[hit] = depth[hit], release.vertex_instances[face[0]]
    return found


@pytest.mark.parametrize(
    ('folder', 'found'), [('./instance-filt', True), ('scene0000_00/instance-filt', False), ('.', False)]
)
def test_other_layouts_of_archives(release: Any, out: Path, folder: str, found: bool) -> None:
    release.add('scene0000_00', num_frames=1)
    with zipfile.ZipFile(release.file('scene0000_00', '_2d-instance-filt.zip'), 'w') as archive:
        archive.mkdir(folder)
        archive.writestr(f'{folder}/0.png', release.encode(release.instances(0), 'PNG'))
    report = convert_scannet(release.root, out).describe()
    assert (scene_of(out, 'scene0000_00')['frames'][0]['instance'] is not None) == found
    told = '_2d-instance-filt.zip: expected images `instance-filt/<frame>.png`, found none' in report
    assert told == (not found)


def test_ids_without_object_are_reported(release: Any, out: Path) -> None:
    release.add('scene0000_00')
    image = np.full((24, 32), 77, np.uint16)
    release.write_instance_maps('scene0000_00', {0: release.encode(image, 'PNG')})
    assert 'the ids [77] belong to no object' in convert_scannet(release.root, out, frame_skip=20).describe()
    np.testing.assert_array_equal(np.array(Image.open(out / 'scenes/scene0000_00/instance/000000.png')), image)


def test_damaged_frames_are_left_out(release: Any, out: Path) -> None:
    release.add('scene0000_00')
    good = release.encode(release.instances(0), 'PNG')
    release.write_instance_maps('scene0000_00', {0: good, 1: good[:-30], 2: good})
    path = release.file('scene0000_00', '.sens')
    path.write_bytes(path.read_bytes().replace(release.color(2), bytes(len(release.color(2)))))
    convert_scannet(release.root, out, frame_skip=1)
    scene = scene_of(out, 'scene0000_00')
    assert [frame['id'] for frame in scene['frames']] == ['000000', '000003', '000004']
    assert scene['report']['frames_damaged'] == ['000001', '000002']
    assert scene['report']['instance_maps_missing'] == ['000003', '000004']
    _, of_map, of_color = sorted(scene['report']['warnings'], key=lambda text: text.startswith('scene0000_00.sens'))
    assert of_map.startswith('scene0000_00_2d-instance-filt.zip: instance-filt/1.png')
    assert of_color.startswith('scene0000_00.sens: frame 2: color image')


def test_archive_members_never_leave_the_output(release: Any, out: Path, tmp_path: Path) -> None:
    release.add('scene0000_00')
    with zipfile.ZipFile(release.file('scene0000_00', '_2d-instance-filt.zip'), 'a') as archive:
        for name in ('../../evil.png', f'{tmp_path}/evil.png', 'instance-filt/../../../evil.png'):
            archive.writestr(name, b'evil')
    before = snapshot(release.root)
    summary = convert_scannet(release.root, out, frame_skip=1)
    assert 'scene0000_00_2d-instance-filt.zip: ignored members outside the archive' in summary.describe()
    assert len(summary.finished) == 1
    assert snapshot(release.root) == before
    assert not [path for path in tmp_path.rglob('*') if 'evil' in path.name]
    assert not [path for path in out.parent.parent.iterdir() if 'evil' in path.name]


@pytest.mark.parametrize(
    ('ending', 'message'),
    [
        ('.sens', 'No such file'),
        ('.txt', 'No such file'),
        ('.aggregation.json', 'No such file'),
        ('_vh_clean_2.ply', 'No such file'),
        ('_vh_clean_2.0.010000.segs.json', 'No such file'),
    ],
)
def test_a_missing_file_fails_one_scene_only(release: Any, out: Path, ending: str, message: str) -> None:
    for scene_id in ('scene0000_00', 'scene0001_00', 'scene0002_00'):
        release.add(scene_id)
    release.file('scene0001_00', ending).unlink()
    summary = convert_scannet(release.root, out, frame_skip=1)
    assert [result.scene_id for result in summary.failed] == ['scene0001_00']
    assert f'scene0001_00{ending}' in str(summary.failed[0].error)
    assert message in str(summary.failed[0].error)
    assert scenes_in(out, 'train') == ['scene0000_00', 'scene0002_00']
    assert sorted(path.name for path in (out / 'scenes').iterdir()) == ['scene0000_00', 'scene0002_00']


@pytest.mark.parametrize(
    ('place', 'value', 'damaged', 'message'),
    [
        (0, 0.0, True, 'frame 1: pose: expected a rotation and a translation'),
        (0, -1.0, True, 'frame 1: pose: expected a rotation and a translation'),  # a mirror
        (15, 2.0, True, 'frame 1: pose: expected a rotation and a translation'),
        (3, np.nan, False, 'frame 1: pose: partly not finite'),
        (12, -np.inf, False, 'frame 1: pose: partly not finite'),
    ],
)
def test_poses_that_are_none(release: Any, out: Path, place: int, value: float, damaged: bool, message: str) -> None:
    release.add('scene0000_00', num_frames=3)
    path = release.file('scene0000_00', '.sens')
    content, pose = path.read_bytes(), release.pose(1).tobytes()
    changed = release.pose(1).ravel()
    changed[place] = value
    path.write_bytes(content.replace(pose, changed.tobytes()))
    text = convert_scannet(release.root, out, frame_skip=1).describe()
    assert f'scene0000_00.sens: {message}' in text
    scene = scene_of(out, 'scene0000_00')
    assert [frame['id'] for frame in scene['frames']] == ['000000', '000002']
    assert scene['report']['frames_damaged' if damaged else 'frames_without_pose'] == ['000001']


def test_a_scan_without_any_pose_fails(release: Any, out: Path) -> None:
    release.add('scene0000_00', num_frames=2, without_pose=(0, 1))
    summary = convert_scannet(release.root, out, frame_skip=1)
    assert 'scene0000_00.sens: no usable frame' in str(summary.failed[0].error)


@pytest.mark.parametrize('numbers', ['1 ' * 15, '1 ' * 17, 'nan ' * 16, 'one ' * 16, ''])
def test_axis_alignment_must_be_a_matrix(release: Any, out: Path, numbers: str) -> None:
    release.add('scene0000_00')
    release.file('scene0000_00', '.txt').write_text(f'axisAlignment = {numbers}\n')
    error = str(convert_scannet(release.root, out).failed[0].error)
    assert 'scene0000_00.txt: axisAlignment: expected 16' in error


def test_finished_scenes_are_kept(release: Any, out: Path) -> None:
    release.add('scene0000_00')
    release.add('scene0001_00', 'val')
    convert_scannet(release.root, out, frame_skip=2)
    marks = {path: path.stat().st_mtime_ns for path in out.glob('scenes/*/scene.json')}
    assert len(marks) == 2
    summary = convert_scannet(release.root, out, frame_skip=2)
    assert [result.reused for result in summary.results] == [True, True]
    assert {path: path.stat().st_mtime_ns for path in marks} == marks
    assert (scenes_in(out, 'train'), scenes_in(out, 'val')) == (['scene0000_00'], ['scene0001_00'])


def test_other_settings_or_files_convert_again(release: Any, out: Path) -> None:
    release.add('scene0000_00')
    release.add('scene0001_00')
    archive = release.file('scene0001_00', '_2d-instance-filt.zip')
    archive.rename(archive.with_name('elsewhere.zip'))
    convert_scannet(release.root, out, frame_skip=2)
    archive.with_name('elsewhere.zip').rename(archive)  # downloaded later
    summary = convert_scannet(release.root, out, frame_skip=2)
    assert [result.reused for result in summary.results] == [True, False]
    assert scene_of(out, 'scene0001_00')['frames'][0]['instance'] is not None
    summary = convert_scannet(release.root, out, frame_skip=1)
    assert [(result.reused, result.num_frames) for result in summary.results] == [(False, 5), (False, 5)]


def test_a_removed_scan_stays_converted(release: Any, out: Path) -> None:
    release.add('scene0000_00')
    release.add('scene0001_00')
    convert_scannet(release.root, out)
    (release.root / 'scans' / 'scene0000_00').rename(release.root / 'moved')
    assert [result.reused for result in convert_scannet(release.root, out).finished] == [True, True]
    summary = convert_scannet(release.root, out, frame_skip=1)
    assert [result.scene_id for result in summary.failed] == ['scene0000_00']
    assert scenes_in(out, 'train') == ['scene0001_00']


def test_a_killed_run_is_completed_by_the_next(release: Any, out: Path, tmp_path: Path) -> None:
    for index in range(12):
        release.add(f'scene{index:04d}_00', num_frames=40)
    command = [sys.executable, str(TOOL), str(release.root), str(out), '--frame-skip', '1', '--num-workers', '1']
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(out.glob('scenes/scene*'))) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    finished = len(list(out.glob('scenes/scene*')))
    assert 2 <= finished < 12
    assert not list(out.glob('*.json'))

    complete = tmp_path / 'complete'
    convert_scannet(release.root, complete, frame_skip=1)
    expected = snapshot(complete)
    for folder in out.glob('scenes/scene*'):
        prefix = f'scenes/{folder.name}/'
        of_scene = {name.removeprefix(prefix): data for name, data in expected.items() if name.startswith(prefix)}
        assert snapshot(folder) == of_scene
    summary = convert_scannet(release.root, out, frame_skip=1)
    assert sum(result.reused for result in summary.finished) == finished
    assert snapshot(out) == expected


def test_workers_give_the_same_files(release: Any, tmp_path: Path) -> None:
    for index in range(4):
        release.add(f'scene{index:04d}_00', ('train', 'val', 'test')[index % 3])
    for num_workers in (1, 2):
        convert_scannet(release.root, tmp_path / str(num_workers), frame_skip=1, num_workers=num_workers)
    files = snapshot(tmp_path / '1')
    assert files == snapshot(tmp_path / '2')
    assert len(files) == 3 + 4 * (2 + 5 + 5) + 3 * 5


def test_official_splits_of_a_release_without_lists(release: Any, out: Path) -> None:
    for scene_id in ('scene0011_01', 'scene0000_00', 'scene0011_00'):
        release.add(scene_id, 'train')
    release.add('scene0707_00', 'test')
    shutil.rmtree(release.root / 'Tasks')
    (release.root / 'scans' / '.cache').mkdir()
    assert not convert_scannet(release.root, out, frame_skip=1).failed
    listed = {
        split: [entry['scene_id'] for entry in json.loads((out / f'{split}.json').read_text())['data_list']]
        for split in ('train', 'val', 'test')
    }
    assert listed == {'train': ['scene0000_00'], 'val': ['scene0011_00', 'scene0011_01'], 'test': ['scene0707_00']}


@pytest.mark.parametrize(
    ('scan', 'message'),
    [(None, 'expected scans in `scans` or `scans_test`, found none'), ('kitchen', "'kitchen': expected")],
)
def test_without_lists_the_names_must_be_scannets(release: Any, out: Path, scan: str | None, message: str) -> None:
    shutil.rmtree(release.root / 'Tasks')
    if scan is not None:
        (release.root / 'scans' / scan).mkdir(parents=True)
    with pytest.raises(ValueError, match=message):
        convert_scannet(release.root, out)
    assert not out.exists()


def test_own_split_lists(release: Any, out: Path, tmp_path: Path) -> None:
    release.add('scene0000_00', 'train')
    release.add('scene0001_00', 'train')
    (tmp_path / 'scannetv2_val.txt').write_text('scene0001_00\n\nscene0001_00\n')
    convert_scannet(release.root, out, splits=tmp_path)
    assert sorted(path.name for path in out.iterdir()) == ['scenes', 'val.json']
    assert scenes_in(out, 'val') == ['scene0001_00']


@pytest.mark.parametrize('scene_id', ['../scans/scene0000_00', '/etc', '.hidden'])
def test_ids_that_lead_elsewhere_fail(release: Any, out: Path, scene_id: str) -> None:
    release.add('scene0000_00')
    (release.root / 'Tasks/Benchmark/scannetv2_val.txt').write_text(scene_id + '\n')
    summary = convert_scannet(release.root, out)
    assert [(result.scene_id, 'scene id' in str(result.error)) for result in summary.failed] == [(scene_id, True)]
    assert scenes_in(out, 'val') == []


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda release: (release.root / 'scannetv2-labels.combined.tsv').unlink(), 'no label table'),
        (lambda release: (release.root / 'scannetv2-labels.combined.tsv').write_text('id\traw_category\n'), 'nyu40id'),
        (lambda release: (release.root / 'Tasks/Benchmark/scannetv2_train.txt').unlink(), 'no split list'),
    ],
)
def test_an_unusable_release_writes_nothing(release: Any, out: Path, change: Any, message: str) -> None:
    release.add('scene0000_00')
    change(release)
    with pytest.raises(ValueError, match=message):
        convert_scannet(release.root, out)
    assert not out.exists()


@pytest.mark.parametrize('name', ['frame_skip', 'num_workers'])
def test_counts_must_be_positive(release: Any, out: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f'`{name}` must be at least 1, got 0'):
        convert_scannet(release.root, out, **{name: 0})


def test_tool_reports_and_fails(release: Any, out: Path) -> None:
    release.add('scene0000_00')
    release.add('scene0001_00')

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(TOOL), str(release.root), str(out), '--frame-skip', '2', '--num-workers', '2']
        return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60)

    done = run()
    assert done.returncode == 0
    assert done.stdout.startswith('2 scenes with 6 frames (0 were finished before), 0 failed\n')
    assert '2/2' in done.stderr
    path = release.file('scene0001_00', '.sens')
    path.write_bytes(path.read_bytes()[:1000])
    partly = run()
    assert partly.returncode == 1
    assert partly.stdout.splitlines()[0] == '1 scenes with 3 frames (1 were finished before), 1 failed'
    assert partly.stdout.splitlines()[-1].startswith(f'failed: scene0001_00: {path}: truncated at frame 0')
    assert scenes_in(out, 'train') == ['scene0000_00']
    nothing = run('--splits', str(out))
    assert (nothing.returncode, 'no split list' in nothing.stderr) == (2, True)


def test_recordings_larger_than_memory_are_streamed(release: Any, out: Path) -> None:
    """A frame that is not wanted is not read, however large it claims to be."""
    release.add('scene0000_00', num_frames=2)
    path = release.file('scene0000_00', '.sens')
    data, color = bytearray(path.read_bytes()), release.color(1)
    start = bytes(data).index(color)
    hole = 2**34
    data[start - 16 : start - 8] = hole.to_bytes(8, 'little')
    depth_and_rest = bytes(data[start + len(color) :])
    with open(path, 'wb') as file:
        file.write(data[:start])
        file.seek(hole, io.SEEK_CUR)  # a sparse file: claims 16 GiB, takes a few blocks
        file.write(depth_and_rest)
    summary = convert_scannet(release.root, out, frame_skip=20)
    assert [result.num_frames for result in summary.finished] == [1]
