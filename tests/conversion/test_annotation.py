from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pano3d.conversion.annotation import (
    LabelIds,
    SegmentGroup,
    instance_records,
    read_aggregation,
    read_label_table,
    read_segments,
    vertex_instances,
)

TABLE = {'chair': LabelIds(2, 5), 'pipe': LabelIds(107, 40), 'odd': LabelIds(9, None)}


def test_entries_of_one_object_are_merged() -> None:
    groups = [SegmentGroup(0, 'chair', (4,)), SegmentGroup(7, 'pipe', (5,)), SegmentGroup(0, 'chair', (6,))]
    instances, warnings = vertex_instances(np.array([6, 5, 4, 3]), groups)
    assert instances.tolist() == [1, 8, 1, 0]
    assert instances.dtype == np.int32
    assert warnings == []


def test_the_later_object_gets_a_disputed_segment() -> None:
    groups = [SegmentGroup(3, 'chair', (4, 5)), SegmentGroup(1, 'chair', (5,))]
    instances, warnings = vertex_instances(np.array([4, 5]), groups)
    assert instances.tolist() == [4, 2]
    assert len(warnings) == 1
    assert 'several objects, e.g. 5' in warnings[0]


def test_segments_outside_the_mesh_are_reported() -> None:
    instances, warnings = vertex_instances(np.array([1, 1]), [SegmentGroup(0, 'chair', (1, 99))])
    assert instances.tolist() == [1, 1]
    assert len(warnings) == 1
    assert '99' in warnings[0]


def test_vertex_instances_against_a_loop_over_vertices() -> None:
    rng = np.random.default_rng(0)
    ids = rng.choice(10**12, 50, replace=False)
    segments = rng.choice(ids, 400)
    groups = [SegmentGroup(int(rng.integers(9)), 'x', tuple(rng.choice(ids, 6).tolist())) for _ in range(12)]
    expected = np.zeros(400, int)
    for group in groups:
        expected[np.isin(segments, group.segments)] = group.object_id + 1
    np.testing.assert_array_equal(vertex_instances(segments, groups)[0], expected)


def test_records_keep_objects_without_class() -> None:
    groups = [SegmentGroup(5, 'pipe', ()), SegmentGroup(1, 'gadget', ()), SegmentGroup(2, 'odd', ())]
    records, warnings = instance_records([*groups, SegmentGroup(5, 'chair', ())], TABLE)
    assert records == [
        {'id': 2, 'raw_category': 'gadget', 'scannet_id': None, 'nyu40_id': None},
        {'id': 3, 'raw_category': 'odd', 'scannet_id': 9, 'nyu40_id': None},
        {'id': 6, 'raw_category': 'pipe', 'scannet_id': 107, 'nyu40_id': 40},
    ]
    assert [("'gadget'" in text, "'pipe' and 'chair'" in text) for text in warnings] == [(False, True), (True, False)]


def test_label_table_goes_through_the_raw_category(tmp_path: Path) -> None:
    path = tmp_path / 'labels.tsv'
    path.write_text('nyu40id\tid\tcategory\traw_category\n40\t107\tx\tpipe\n38\t107\tx\tstructure\n\t9\tx\todd\n')
    assert read_label_table(path) == {
        'pipe': LabelIds(107, 40),
        'structure': LabelIds(107, 38),
        'odd': LabelIds(9, None),
    }


def test_label_table_that_an_editor_has_stored_anew(tmp_path: Path) -> None:
    """With a byte order mark and other line ends."""
    path = tmp_path / 'labels.tsv'
    path.write_bytes(b'\xef\xbb\xbfid\traw_category\tnyu40id\r\n1\twall\t1\r\n')
    assert read_label_table(path) == {'wall': LabelIds(1, 1)}


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('id\traw_category\n1\twall\n', 'no column nyu40id'),
        ('', 'no column id, nyu40id, raw_category'),
        ('id\traw_category\tnyu40id\n1\twall\t1\nx\tchair\t5\n', "line 3.*found 'x' and '5'"),
    ],
)
def test_unusable_label_tables(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / 'labels.tsv').write_text(text)
    with pytest.raises(ValueError, match=rf'labels\.tsv: .*{message}'):
        read_label_table(tmp_path / 'labels.tsv')


@pytest.mark.parametrize(
    ('entry', 'message'),
    [
        ({'objectId': 1, 'label': 'chair'}, r'segGroups\[1\]: no key segments'),
        ({'objectId': 1, 'segments': []}, r'segGroups\[1\]: no key label'),
        ({'objectId': -1, 'label': 'chair', 'segments': []}, 'objectId: expected .* found -1'),
        ({'objectId': 70000, 'label': 'chair', 'segments': []}, 'objectId: expected .* found 70000'),
        ({'objectId': 1, 'label': None, 'segments': []}, 'label: expected text, found nothing'),
        ({'objectId': 1, 'label': 'chair', 'segments': [1, '2']}, 'segments: expected a list of whole numbers'),
        ([], r'segGroups\[1\]: expected an object, found a list'),
    ],
)
def test_unusable_aggregations(tmp_path: Path, entry: object, message: str) -> None:
    good = {'objectId': 0, 'label': 'chair', 'segments': [3]}
    (tmp_path / 'a.json').write_text(json.dumps({'segGroups': [good, entry]}))
    with pytest.raises(ValueError, match=rf'a\.json: .*{message}'):
        read_aggregation(tmp_path / 'a.json')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{"segIndices": [1, 2]}', 'has 2 entries, but the mesh has 3 vertices'),
        ('{"segIndices": [1, 2, 3.5]}', 'expected a list of whole numbers'),
        ('{"segIndices": [1, 2, 36893488147419103232]}', '64 bits'),
        ('{}', 'key segIndices: expected a list of whole numbers, found nothing'),
        ('[1, 2, 3]', 'expected a JSON object, found a list'),
        ('{"segIndices": [1, 2', 'not a JSON file'),
        ('[' * 100000, 'not a JSON file'),
    ],
)
def test_unusable_segments(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / 's.json').write_text(text)
    with pytest.raises(ValueError, match=rf's\.json: .*{message}'):
        read_segments(tmp_path / 's.json', 3)
