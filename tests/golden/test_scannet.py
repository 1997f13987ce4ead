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
from pano3d.conversion.annotation import read_aggregation, read_label_table
from pano3d.conversion.images import to_millimetres
from pano3d.conversion.rasterise import MeshRasteriser
from pano3d.structures import LabelSpace


@pytest.fixture(scope='session')
def converted(raw_formats: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ConversionSummary]:
    out = tmp_path_factory.mktemp('scenes')
    return out, convert_scannet(raw_formats / 'scannet', out, frame_skip=1)


def _rare(wrong: np.ndarray) -> bool:
    """Single rays along edges may fall to either side."""
    return np.count_nonzero(wrong) <= 2 + 1e-4 * wrong.size


class Case:
    """A converted scene beside its expected values."""

    def __init__(self, raw_formats: Path, out: Path, scannet_scene: str) -> None:
        self.folder = out / 'scenes' / scannet_scene
        self.scene = json.loads((self.folder / 'scene.json').read_text())
        self.facts = json.loads((raw_formats / 'expected' / 'scannet' / f'{scannet_scene}.json').read_text())
        self.arrays = np.load(raw_formats / 'expected' / 'scannet' / f'{scannet_scene}.npz')
        self.raw = next(raw_formats.glob(f'scannet/scans*/{scannet_scene}'))

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
        table = np.zeros(max((record['id'] for record in records), default=0) + 1, np.int64)
        for record in records:
            table[record['id']] = value_of(record)
        return table


@pytest.fixture
def case_of(raw_formats: Path, converted: tuple[Path, ConversionSummary], scannet_scene: str) -> Case:
    return Case(raw_formats, converted[0], scannet_scene)


@pytest.fixture
def annotated(case_of: Case) -> Case:
    if not case_of.facts['annotated']:
        pytest.skip('a scan without annotation')
    return case_of


def test_all_scenes_of_the_lists_are_converted(raw_formats: Path, converted: tuple[Path, ConversionSummary]) -> None:
    out, summary = converted
    assert summary.failed == ()
    files = list((raw_formats / 'scannet' / 'Tasks' / 'Benchmark').glob('scannetv2_*.txt'))
    assert files
    for file in files:
        split, listed = file.stem.removeprefix('scannetv2_'), file.read_text().split()
        record = json.loads((out / f'{split}.json').read_text())
        assert record['metainfo'] == {'format': 'pano3d-scenes', 'version': 1, 'split': split}
        assert [entry['scene_id'] for entry in record['data_list']] == listed


def test_reader_gives_the_recording_as_stored(case_of: Case, scannet_scene: str) -> None:
    facts, arrays = case_of.facts['sens'], case_of.arrays
    with SensReader(case_of.raw / f'{scannet_scene}.sens') as reader:
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


def test_instance_records(annotated: Case, raw_formats: Path) -> None:
    expected = [
        (fact['instance'], fact['label'], fact['raw_id'] or None, fact['nyu40'] or None)
        for fact in annotated.facts['instances']
    ]
    found = [
        (record['id'], record['raw_category'], record['scannet_id'], record['nyu40_id'])
        for record in annotated.scene['instances']
    ]
    assert found == sorted(expected)
    table = read_label_table(raw_formats / 'scannet' / 'scannetv2-labels.combined.tsv')
    without_class = {label for _, label, _, _ in expected} - table.keys()
    assert all(any(label in text for text in annotated.scene['report']['warnings']) for label in without_class)


def test_vertex_instances_and_classes(annotated: Case, raw_formats: Path, scannet_scene: str) -> None:
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

    scannet200, expected = (
        LabelSpace.load('scannet200'),
        np.load(raw_formats / f'expected/scannet200/{scannet_scene}.npz'),
    )
    np.testing.assert_array_equal(scannet200.source_ids, expected['valid_ids'])
    category = annotated.per_instance(scannet200.category_of)
    category[0] = -1
    np.testing.assert_array_equal(
        np.where(category[instance] < 0, 255, category[instance]), expected['vert_label_index']
    )
    source = np.array([*scannet200.source_ids, 0])
    np.testing.assert_array_equal(source[category[instance]], expected['vert_label'])
    np.testing.assert_array_equal(instance, expected['vert_instance'])
    np.testing.assert_array_equal(annotated.stored('colors'), expected['vert_rgb'])
    if annotated.facts['agreement']['ScanNet200 instance_id + 1 on annotated vertices']:
        np.testing.assert_array_equal(instance[instance > 0], expected['vert_group_id'][instance > 0] + 1)


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
    if (annotated.raw / f'{annotated.raw.name}_2d-instance-filt.zip').is_file():
        assert stored.keys() & expected.keys()
    assert [index for index, frame in stored.items() if frame['instance'] is None] == missing
    assert scene['report']['instance_maps_missing'] == [f'{index:06d}' for index in missing]
    for index in stored.keys() & expected.keys():
        found = annotated.image(stored[index]['instance'])
        np.testing.assert_array_equal(found, expected[index])
        if index in labels:
            np.testing.assert_array_equal(scannet_id[found], labels[index])


def test_colors(case_of: Case) -> None:
    """Decoders of JPEG differ by a few grey levels; the bytes are compared above."""
    stored = {int(frame['id']): frame for frame in case_of.scene['frames']}
    arrays, count = case_of.arrays, case_of.facts['sens']['num_frames']
    for index, frame in stored.items():
        color = case_of.image(frame['color'])[..., ::-1]
        np.testing.assert_allclose(color.mean((0, 1)), arrays['sens_color_mean_rgb'][index], atol=1)
        for key, position in (('frame0', 0), ('last', count - 1)):
            if index == position:
                difference = np.abs(color.astype(int) - arrays[f'sens_color_{key}'])
                assert difference.mean() < 1
                assert np.quantile(difference, 0.99) <= 8


def test_classes_of_images(annotated: Case, raw_formats: Path) -> None:
    """The official 2D tools look classes up by `id`, of which a few stand for several raw categories; we do not."""
    arrays = annotated.arrays
    table = list(read_label_table(raw_formats / 'scannet' / 'scannetv2-labels.combined.tsv').values())
    classes_of = {
        ids.scannet_id: {other.nyu40_id for other in table if other.scannet_id == ids.scannet_id} for ids in table
    }
    ambiguous = [number for number, classes in classes_of.items() if len(classes) > 1]
    nyu40 = annotated.per_instance(lambda record: record['nyu40_id'] or 0)
    instances = dict(zip(arrays['img_instance_frames'].tolist(), arrays['img_instance'], strict=True))
    numbered = dict(
        zip(arrays['img_benchmark_instance_frames'].tolist(), arrays['img_benchmark_instance'], strict=True)
    )
    labels = zip(arrays['img_label_frames'].tolist(), arrays['img_label_raw'], arrays['img_label_nyu40'], strict=True)
    for index, raw, official in labels:
        if index not in instances:
            continue
        clear = ~np.isin(raw, ambiguous)
        np.testing.assert_array_equal(nyu40[instances[index]][clear], official[clear])
        if index in numbered:  # class * 1000 + a number that is given anew in each image, also to walls
            counted = numbered[index] >= 1000
            np.testing.assert_array_equal(numbered[index][counted] // 1000, official[counted])
            pairs = np.unique(np.stack([numbered[index], instances[index]])[:, counted], axis=1)
            assert all(len(np.unique(row)) == pairs.shape[1] for row in pairs)


def test_where_an_official_tool_loses_part_of_an_object(annotated: Case) -> None:
    """Objects of several entries: the tools keep the last entry, we keep all."""
    other = [key for key in annotated.arrays if re.fullmatch(r'vert_instance_\w+', key)]
    groups = read_aggregation(annotated.raw / f'{annotated.raw.name}.aggregation.json')
    ids = [group.object_id for group in groups]
    repeated = [object_id + 1 for object_id in set(ids) if ids.count(object_id) > 1]
    instance = annotated.stored('instance')
    for key in other:
        differs = instance != annotated.arrays[key]
        assert differs.any()
        assert set(instance[differs]) <= set(repeated)


def test_views_of_the_mesh(annotated: Case, raw_formats: Path) -> None:
    """What `rasterise_missing` stores, and depth as seen by either camera: the same pixel by pixel."""
    arrays = annotated.arrays
    views = [key.removesuffix('_depth_mm') for key in arrays if re.fullmatch(r'raster_\w+_depth_mm', key)]
    rasteriser = MeshRasteriser(annotated.stored('vertices'), annotated.stored('faces'), annotated.stored('instance'))
    frames = {int(frame['id']): frame for frame in annotated.scene['frames']}
    scannet200 = LabelSpace.load('scannet200')
    source = np.array([*scannet200.source_ids, 0])  # -1 finds the 0
    of_instance = {
        'instance': annotated.per_instance(lambda record: record['id']),
        'nyu40': annotated.per_instance(lambda record: record['nyu40_id'] or 0),
        'scannet200': annotated.per_instance(lambda record: source[scannet200.category_of(record)]),
    }
    for view in views:
        camera, frame = view.split('_')[1], frames[int(view.split('_')[2])]
        intrinsics, size = np.array(frame[f'{camera}_intrinsics']), tuple(frame[f'{camera}_size'])
        depth, instance = rasteriser.pinhole_view(intrinsics, size, np.array(frame['camera_to_world']))
        # Single rays along edges may fall to either side.
        off = np.abs(to_millimetres(depth).astype(int) - arrays[f'{view}_depth_mm']) > 1
        assert _rare(off)
        stable = arrays[f'{view}_stable']
        assert not off[stable].any()
        for kind in {*of_instance} & {key.removeprefix(f'{view}_') for key in arrays}:
            wrong = of_instance[kind][instance] != arrays[f'{view}_{kind}']
            assert not wrong[stable].any()
            assert _rare(wrong)


COMPARED = (
    r'sens_(pose|pose_finite|timestamp_\w+|\w+_size_bytes|intrinsic_\w+|extrinsic_\w+|depth)',
    r'sens_color_(mean_rgb|frame0|last)|axis_align',
    r'vert_(xyz|rgb|xyz_aligned|nyu40|bench20_nyu40|bench20_index|instance|instance_\w+)',
    r'img_(label|instance|benchmark_instance)(_frames|_raw|_nyu40)?',
    r'raster_(color|depth)_\d+_(depth_mm|instance|nyu40|scannet200|stable)',
)


def test_every_array_is_compared(case_of: Case) -> None:
    assert [key for key in case_of.arrays if not any(re.fullmatch(pattern, key) for pattern in COMPARED)] == []


def test_scans_without_annotation(case_of: Case) -> None:
    if case_of.facts['annotated']:
        pytest.skip('a scan with annotation')
    assert case_of.scene['instances'] == []
    assert not case_of.stored('instance').any()
    assert all(frame['instance'] is None for frame in case_of.scene['frames'])
    assert case_of.scene['report']['instance_maps_missing'] == []


def test_names_of_label_spaces_are_in_the_label_table(raw_formats: Path) -> None:
    table = read_label_table(raw_formats / 'scannet' / 'scannetv2-labels.combined.tsv')
    space = LabelSpace.load('scannet200')
    assert [table[name].scannet_id for name in space.names] == list(space.source_ids)


def _tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob('*')}


def test_damaged_release(raw_formats: Path, tmp_path: Path, scannet_case: dict[str, Any]) -> None:
    raw, out = tmp_path / 'raw', tmp_path / 'deeper' / 'out'
    shutil.copytree(raw_formats / 'broken' / 'base' / 'scannet', raw)
    overlay = raw_formats / 'broken' / 'cases' / scannet_case['id'] / 'scannet'
    if overlay.is_dir():
        shutil.copytree(overlay, raw, dirs_exist_ok=True)
    for name in scannet_case.get('remove', []):
        (raw / Path(name).relative_to('scannet')).unlink()
    before, target = _tree(tmp_path), scannet_case['target_scene']
    tracemalloc.start()
    message, finished = '', {}
    try:
        summary = convert_scannet(raw, out, frame_skip=1)
        message = summary.describe()
        finished = {result.scene_id: result.num_frames for result in summary.finished}
    except ValueError as error:
        assert scannet_case['outcome'] == 'run_error'
        message = str(error)
        assert not out.exists()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 100e6
    assert all(re.search(pattern, message, re.IGNORECASE) for pattern in scannet_case['message_should_mention']), (
        message
    )
    assert set(scannet_case.get('other_scenes', [])) <= finished.keys()
    assert all(name.startswith('deeper') for name in _tree(tmp_path) - before)
    if scannet_case['outcome'] == 'scene_error':
        assert target not in finished
    if scannet_case['outcome'] == 'converted_with_warning':
        assert target in finished
    if target in finished:
        scene = json.loads((out / 'scenes' / target / 'scene.json').read_text())
        assert not {int(frame['id']) for frame in scene['frames']} & set(scannet_case.get('bad_frames', []))
        report, bad = scene['report'], set(scannet_case.get('bad_frames', []))
        assert {int(frame) for frame in report['frames_damaged'] + report['frames_without_pose']} >= bad
        assert {int(frame) for frame in report['frames_damaged']} <= bad
