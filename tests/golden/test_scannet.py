"""Conversion of ScanNet v2 scans against what the official readers return, and of damaged ones."""

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

from pano3d.conversion import ConversionSummary, SensReader, convert_scannet
from pano3d.conversion.annotation import read_label_table
from pano3d.conversion.images import to_millimetres
from pano3d.conversion.rasterise import MeshRasteriser
from pano3d.structures import LabelSpace


def _root(config: pytest.Config) -> Path | None:
    root = config.getoption('--golden-root')
    return None if root is None else root.resolve() / 'scannet_raw'


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    root = _root(metafunc.config)
    if 'scene_id' in metafunc.fixturenames:
        found = [] if root is None else sorted(path.stem for path in (root / 'expected' / 'scannet').glob('*.json'))
        metafunc.parametrize('scene_id', found)
    if 'case' in metafunc.fixturenames:
        file = root / 'broken' / 'cases.json' if root else None
        cases = json.loads(file.read_text())['cases'] if file and file.is_file() else []
        changed = [[*case['overlay'], *case.get('remove', [])] for case in cases]
        of_scannet = [
            case
            for case, names in zip(cases, changed, strict=True)
            if all(name.startswith('scannet/') for name in names)
        ]
        metafunc.parametrize('case', of_scannet, ids=[case['id'] for case in of_scannet])


@pytest.fixture(scope='session')
def golden(golden_root: Path) -> Path:
    return golden_root / 'scannet_raw'


@pytest.fixture(scope='session')
def converted(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ConversionSummary]:
    out = tmp_path_factory.mktemp('scenes')
    return out, convert_scannet(golden / 'scannet', out, frame_skip=1)


class Case:
    """A converted scene beside its expected values."""

    def __init__(self, golden: Path, out: Path, scene_id: str) -> None:
        self.folder = out / 'scenes' / scene_id
        self.scene = json.loads((self.folder / 'scene.json').read_text())
        self.facts = json.loads((golden / 'expected' / 'scannet' / f'{scene_id}.json').read_text())
        self.arrays = np.load(golden / 'expected' / 'scannet' / f'{scene_id}.npz')
        self.raw = next(golden.glob(f'scannet/scans*/{scene_id}'))

    def image(self, name: str) -> np.ndarray:
        image = cv2.imread(str(self.folder / name), cv2.IMREAD_UNCHANGED)
        assert image is not None
        return image

    def stored(self, key: str) -> np.ndarray:
        with np.load(self.folder / 'mesh.npz') as mesh:
            return mesh[key]

    def per_instance(self, value_of: Any) -> np.ndarray:
        """Table from instance id to a value, 0 for no instance."""
        records = self.scene['instances']
        table = np.zeros(max(record['id'] for record in records) + 1, np.int64)
        for record in records:
            table[record['id']] = value_of(record)
        return table


@pytest.fixture
def case_of(golden: Path, converted: tuple[Path, ConversionSummary], scene_id: str) -> Case:
    return Case(golden, converted[0], scene_id)


@pytest.fixture
def annotated(case_of: Case) -> Case:
    if not case_of.facts['annotated']:
        pytest.skip('a scan without annotation')
    return case_of


def test_all_scenes_of_the_lists_are_converted(golden: Path, converted: tuple[Path, ConversionSummary]) -> None:
    out, summary = converted
    assert summary.failed == ()
    for split in ('train', 'val', 'test'):
        listed = (golden / 'scannet' / 'Tasks' / 'Benchmark' / f'scannetv2_{split}.txt').read_text().split()
        record = json.loads((out / f'{split}.json').read_text())
        assert record['metainfo'] == {'format': 'pano3d-scenes', 'version': 1, 'split': split}
        assert [entry['scene_id'] for entry in record['data_list']] == listed


def test_reader_gives_the_recording_as_stored(case_of: Case, scene_id: str) -> None:
    facts, arrays = case_of.facts['sens'], case_of.arrays
    with SensReader(case_of.raw / f'{scene_id}.sens') as reader:
        frames = list(reader.frames())
        depth = np.stack([reader.decode_depth(frame) for frame in frames])
        header = reader.header
    assert (header.sensor_name, header.depth_shift) == (facts['sensor_name'], facts['depth_shift'])
    assert [*header.color_size, *header.depth_size] == [*facts['color_size_wh'], *facts['depth_size_wh']]
    for camera in ('color', 'depth'):
        np.testing.assert_array_equal(getattr(header, f'{camera}_intrinsics'), arrays[f'sens_intrinsic_{camera}'])
        np.testing.assert_array_equal(getattr(header, f'{camera}_extrinsics'), arrays[f'sens_extrinsic_{camera}'])
        times = [getattr(frame, f'{camera}_timestamp') for frame in frames]
        np.testing.assert_array_equal(times, arrays[f'sens_timestamp_{camera}'])
    np.testing.assert_array_equal([frame.camera_to_world for frame in frames], arrays['sens_pose'])
    np.testing.assert_array_equal([frame.has_pose for frame in frames], arrays['sens_pose_finite'])
    np.testing.assert_array_equal(depth, arrays['sens_depth'])
    assert [hashlib.sha256(frame.color).hexdigest() for frame in frames] == facts['color_sha256']
    np.testing.assert_array_equal([len(frame.color) for frame in frames], arrays['sens_color_size_bytes'])
    np.testing.assert_array_equal([len(frame.compressed_depth) for frame in frames], arrays['sens_depth_size_bytes'])


def test_stored_frames(case_of: Case) -> None:
    facts, arrays, scene = case_of.facts['sens'], case_of.arrays, case_of.scene
    with_pose = np.flatnonzero(arrays['sens_pose_finite'])
    assert [frame['id'] for frame in scene['frames']] == [f'{index:06d}' for index in with_pose]
    assert scene['report']['frames_total'] == facts['num_frames']
    assert scene['report']['frames_without_pose'] == [f'{index:06d}' for index in facts['frames_without_finite_pose']]
    assert scene['depth_scale'] == 1 / facts['depth_shift']
    for frame, index in zip(scene['frames'], with_pose, strict=True):
        color = (case_of.folder / frame['color']).read_bytes()
        assert hashlib.sha256(color).hexdigest() == facts['color_sha256'][index]
        depth = case_of.image(frame['depth'])
        assert depth.dtype == np.uint16
        np.testing.assert_array_equal(depth, arrays['sens_depth'][index])
        np.testing.assert_array_equal(np.float32(frame['camera_to_world']), arrays['sens_pose'][index])
        for camera in ('color', 'depth'):
            assert frame[f'{camera}_size'] == facts[f'{camera}_size_wh']
            expected = arrays[f'sens_intrinsic_{camera}'][:3, :3]
            np.testing.assert_array_equal(np.float32(frame[f'{camera}_intrinsics']), expected)


def test_mesh_and_axis_alignment(case_of: Case) -> None:
    vertices, faces = case_of.stored('vertices'), case_of.stored('faces')
    assert (vertices.dtype, faces.dtype) == (np.float32, np.int32)
    assert faces.shape == (case_of.facts['num_faces'], 3)
    np.testing.assert_array_equal(vertices, case_of.arrays['vert_xyz'])
    np.testing.assert_array_equal(case_of.stored('colors'), case_of.arrays['vert_rgb'])
    alignment = case_of.scene['axis_alignment']
    if 'axisAlignment' not in case_of.facts['txt']:
        assert alignment is None
        return
    np.testing.assert_array_equal(alignment, case_of.arrays['axis_align'])
    rotation, translation = np.array(alignment)[:3, :3], np.array(alignment)[:3, 3]
    np.testing.assert_allclose(vertices @ rotation.T + translation, case_of.arrays['vert_xyz_aligned'], atol=1e-5)


def test_instance_records(annotated: Case, golden: Path) -> None:
    expected = [
        (fact['instance'], fact['label'], fact['raw_id'] or None, fact['nyu40'] or None)
        for fact in annotated.facts['instances']
    ]
    found = [
        (record['id'], record['raw_category'], record['scannet_id'], record['nyu40_id'])
        for record in annotated.scene['instances']
    ]
    assert found == sorted(expected)
    table = read_label_table(golden / 'scannet' / 'scannetv2-labels.combined.tsv')
    without_class = {label for _, label, _, _ in expected} - table.keys()
    assert all(any(label in text for text in annotated.scene['report']['warnings']) for label in without_class)


def test_vertex_instances_and_classes(annotated: Case, golden: Path, scene_id: str) -> None:
    instance = annotated.stored('instance')
    np.testing.assert_array_equal(instance, annotated.arrays['vert_instance'])
    nyu40 = annotated.per_instance(lambda record: record['nyu40_id'] or 0)
    np.testing.assert_array_equal(nyu40[instance], annotated.arrays['vert_nyu40'])

    scannet20 = LabelSpace.load('scannet20')
    category = annotated.per_instance(scannet20.category_of)
    category[0] = -1
    np.testing.assert_array_equal(
        np.where(category[instance] < 0, 255, category[instance]), annotated.arrays['vert_bench20_index']
    )
    source = np.array([*scannet20.source_ids, 0])  # -1 finds the 0
    np.testing.assert_array_equal(source[category[instance]], annotated.arrays['vert_bench20_nyu40'])

    scannet200, expected = LabelSpace.load('scannet200'), np.load(golden / f'expected/scannet200/{scene_id}.npz')
    np.testing.assert_array_equal(scannet200.source_ids, expected['valid_ids'])
    category = annotated.per_instance(scannet200.category_of)
    category[0] = -1
    np.testing.assert_array_equal(
        np.where(category[instance] < 0, 255, category[instance]), expected['vert_label_index']
    )
    source = np.array([*scannet200.source_ids, 0])
    np.testing.assert_array_equal(source[category[instance]], expected['vert_label'])
    np.testing.assert_array_equal(instance, expected['vert_instance'])


def test_things_and_stuff(annotated: Case) -> None:
    spaces = {'bench20': LabelSpace.load('scannet20'), 'scannet200': LabelSpace.load('scannet200')}
    records = {record['id']: record for record in annotated.scene['instances']}
    for fact in annotated.facts['instances']:
        for key, space in spaces.items():
            category = space.category_of(records[fact['instance']])
            assert (category >= 0 and not space.is_stuff[category]) == fact[f'{key}_isthing']
        category = spaces['scannet200'].category_of(records[fact['instance']])
        assert spaces['scannet200'].describe([category]) == [fact['scannet200_name'] or 'void']


def test_instance_maps(annotated: Case) -> None:
    arrays, scene = annotated.arrays, annotated.scene
    expected = dict(zip(arrays['img_instance_frames'].tolist(), arrays['img_instance'], strict=True))
    labels = dict(zip(arrays['img_label_frames'].tolist(), arrays['img_label_raw'], strict=True))
    scannet_id = annotated.per_instance(lambda record: record['scannet_id'] or 0)
    stored = {int(frame['id']): frame for frame in scene['frames']}
    missing = [index for index in stored if index not in expected]
    assert [index for index, frame in stored.items() if frame['instance'] is None] == missing
    assert scene['report']['instance_maps_missing'] == [f'{index:06d}' for index in missing]
    assert stored.keys() & expected.keys()
    for index in stored.keys() & expected.keys():
        found = annotated.image(stored[index]['instance'])
        np.testing.assert_array_equal(found, expected[index])
        if index in labels:
            np.testing.assert_array_equal(scannet_id[found], labels[index])


def test_views_of_the_mesh(annotated: Case) -> None:
    """What `rasterise_missing` stores, and depth as seen by either camera: the same pixel by pixel."""
    arrays = annotated.arrays
    views = [key.removesuffix('_depth_mm') for key in arrays if re.fullmatch(r'raster_\w+_depth_mm', key)]
    rasteriser = MeshRasteriser(annotated.stored('vertices'), annotated.stored('faces'), annotated.stored('instance'))
    frames = {int(frame['id']): frame for frame in annotated.scene['frames']}
    assert views
    for view in views:
        camera, frame = view.split('_')[1], frames[int(view.split('_')[2])]
        intrinsics, size = np.array(frame[f'{camera}_intrinsics']), tuple(frame[f'{camera}_size'])
        depth, instance = rasteriser.pinhole_view(intrinsics, size, np.array(frame['camera_to_world']))
        # Single rays along edges may fall to either side.
        off = np.abs(to_millimetres(depth).astype(int) - arrays[f'{view}_depth_mm']) > 1
        assert off.mean() <= 1e-4
        stable = arrays[f'{view}_stable']
        assert not off[stable].any()
        if f'{view}_instance' in arrays:
            np.testing.assert_array_equal(instance[stable], arrays[f'{view}_instance'][stable])
            assert np.mean(instance != arrays[f'{view}_instance']) <= 1e-4


def test_scans_without_annotation(case_of: Case) -> None:
    if case_of.facts['annotated']:
        pytest.skip('a scan with annotation')
    assert case_of.scene['instances'] == []
    assert not case_of.stored('instance').any()
    assert all(frame['instance'] is None for frame in case_of.scene['frames'])
    assert case_of.scene['report']['instance_maps_missing'] == []


def test_names_of_label_spaces_are_in_the_label_table(golden: Path) -> None:
    table = read_label_table(golden / 'scannet' / 'scannetv2-labels.combined.tsv')
    space = LabelSpace.load('scannet200')
    assert [table[name].scannet_id for name in space.names] == list(space.source_ids)


def _tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob('*')}


def test_damaged_release(golden: Path, tmp_path: Path, case: dict[str, Any]) -> None:
    raw, out = tmp_path / 'raw', tmp_path / 'deeper' / 'out'
    shutil.copytree(golden / 'broken' / 'base' / 'scannet', raw)
    overlay = golden / 'broken' / 'cases' / case['id'] / 'scannet'
    if overlay.is_dir():
        shutil.copytree(overlay, raw, dirs_exist_ok=True)
    for name in case.get('remove', []):
        (raw / Path(name).relative_to('scannet')).unlink()
    before, target = _tree(tmp_path), case['target_scene']
    tracemalloc.start()
    message, finished = '', {}
    try:
        summary = convert_scannet(raw, out, frame_skip=1)
        message = summary.describe()
        finished = {result.scene_id: result.num_frames for result in summary.finished}
    except ValueError as error:
        assert case['outcome'] == 'run_error'
        message = str(error)
        assert not out.exists()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 100e6
    assert all(re.search(pattern, message, re.IGNORECASE) for pattern in case['message_should_mention']), message
    assert set(case.get('other_scenes', [])) <= finished.keys()
    assert all(name.startswith('deeper') for name in _tree(tmp_path) - before)
    if case['outcome'] == 'scene_error':
        assert target not in finished
    if case['outcome'] == 'converted_with_warning':
        assert target in finished
    if target in finished:
        scene = json.loads((out / 'scenes' / target / 'scene.json').read_text())
        assert not {int(frame['id']) for frame in scene['frames']} & set(case.get('bad_frames', []))
        assert len(scene['report']['frames_damaged']) == len(case.get('bad_frames', []))
