from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pano3d.conversion.annotation import SegmentGroup
from pano3d.conversion.scannetpp_labels import (
    BenchmarkClasses,
    benchmark_groups,
    instance_records,
    last_group,
    read_bad_frames,
    read_excluded_vertices,
    smallest_group,
    vertices_of_groups,
)

MAP = """class,count,semantic_map_to,instance_map_to
wall,9,,
book,5,,
books,4,book,
stool,2,chair,chair
remove,3,None,None
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / 'top100.txt').write_text('wall\nchair\nbook\n')
    (tmp_path / 'top100_instance.txt').write_text('book\nchair\nnever seen\n')
    (tmp_path / 'map_benchmark.csv').write_text(MAP)
    return tmp_path


def test_classes_of_labels(folder: Path) -> None:
    classes = BenchmarkClasses.read(folder)
    labels = ['wall', 'chair', 'stool', 'books', 'remove', 'lamp']
    assert [classes.class_id(label) for label in labels] == [0, 1, 1, 2, None, None]
    assert classes.label_space() == {
        'name': 'scannetpp100',
        'source_key': 'scannetpp_id',
        'classes': [
            {'name': 'wall', 'id': 0, 'stuff': True},
            {'name': 'chair', 'id': 1, 'stuff': False},
            {'name': 'book', 'id': 2, 'stuff': False},
        ],
    }
    records = instance_records(
        [SegmentGroup(5, 'books', ()), SegmentGroup(5, 'remove', ()), SegmentGroup(9, 'stool', ())], classes
    )
    assert [list(record.values()) for record in records] == [
        [1, 5, 'books', 2, True],
        [2, 5, 'remove', None, False],
        [3, 9, 'stool', 1, False],
    ]


def test_labels_are_compared_to_the_letter(folder: Path) -> None:
    """As in the official tools: a word with a space at its end is another word."""
    (folder / 'map_benchmark.csv').write_text(MAP + 'seat ,1,chair,chair\nbench,1,chair ,chair\n')
    classes = BenchmarkClasses.read(folder)
    assert [classes.class_id(label) for label in ('seat ', 'seat', 'bench')] == [1, None, None]


@pytest.mark.parametrize(
    ('name', 'text', 'message'),
    [
        ('top100.txt', None, 'no list of classes'),
        ('top100.txt', '\n', 'found none'),
        ('top100.txt', 'wall\nwall\n', r"found \['wall'\] twice"),
        ('top100_instance.txt', None, 'no list of classes'),
        ('map_benchmark.csv', None, 'no table of labels'),
        ('map_benchmark.csv', 'class,count,instance_map_to\n', 'no column semantic_map_to'),
        ('map_benchmark.csv', '', 'no column class, instance_map_to, semantic_map_to'),
        ('map_benchmark.csv', MAP + '"' + 'x' * 200_000, 'not a table of comma-separated values'),
    ],
)
def test_unusable_metadata(folder: Path, name: str, text: str | None, message: str) -> None:
    (folder / name).unlink() if text is None else (folder / name).write_text(text)
    with pytest.raises(ValueError, match=rf'{name}.*{message}|{message}.*{name}'):
        BenchmarkClasses.read(folder)


def test_vertices_of_groups() -> None:
    segments = np.array([7, 3, 7, -2, 500])
    groups = [SegmentGroup(1, 'a', (7, 500, 7)), SegmentGroup(2, 'b', ()), SegmentGroup(3, 'c', (-2, 8, 10**9))]
    members, warnings = vertices_of_groups(segments, groups)
    assert [vertices.tolist() for vertices in members] == [[0, 2, 4], [], [3]]
    assert warnings == ['2 annotated segments are not in the mesh']
    assert [v.tolist() for v in vertices_of_groups(np.zeros(0, np.int64), groups[:2])[0]] == [[], []]
    with pytest.raises(ValueError, match=r'segGroups\[1\]: a segment id exceeds 64 bits'):
        vertices_of_groups(segments, [groups[0], SegmentGroup(1, 'a', (2**70,))])


def test_rules_by_hand() -> None:
    """Five groups over four vertices; group 1 has no class of the benchmark."""
    members = [np.array(v) for v in ([0, 1, 2], [0, 1, 2, 3], [0], [0, 1], [0, 3])]
    labels = benchmark_groups(members, [True, False, True, True, True], 4)
    assert labels.tolist() == [[0, 2, 3], [0, 3, -1], [0, -1, -1], [4, -1, -1]], 'vertex 0 is full when group 4 comes'
    # Group 4 labels one vertex only, as vertex 0 did not take it.
    assert smallest_group(labels, 5).tolist() == [2, 3, 0, 4]
    assert last_group(members, 4).tolist() == [4, 3, 1, 4]


def test_ties_go_to_the_first() -> None:
    labels = benchmark_groups([np.array([0, 1]), np.array([0, 1])], [True, True], 3)
    assert smallest_group(labels, 2).tolist() == [0, 0, -1]


def test_rules_against_one_vertex_at_a_time() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        num_vertices, num_groups = 30, int(rng.integers(1, 12))
        members = [np.flatnonzero(rng.random(num_vertices) < rng.random()) for _ in range(num_groups)]
        used = (rng.random(num_groups) < 0.8).tolist()
        taken: list[list[int]] = [[] for _ in range(num_vertices)]
        sizes = [0] * num_groups
        for group, vertices in enumerate(members):
            for vertex in vertices:
                if used[group] and len(taken[vertex]) < 3:
                    taken[vertex].append(group)
                    sizes[group] += 1
        labels = benchmark_groups(members, used, num_vertices)
        assert [[group for group in row if group >= 0] for row in labels.tolist()] == taken
        expected = [min(groups, key=lambda group: sizes[group]) if groups else -1 for groups in taken]
        assert smallest_group(labels, num_groups).tolist() == expected


def test_excluded_vertices(tmp_path: Path) -> None:
    path = tmp_path / 'mask.txt'
    path.write_text('2\n\n0\n2')
    assert read_excluded_vertices(path, 4).tolist() == [True, False, True, False]
    path.write_text('')
    assert not read_excluded_vertices(path, 4).any()
    for word in ('4', '-1', '1.5', 'x', '9' * 30, '²'):
        path.write_text(f'0\n{word}\n')
        with pytest.raises(ValueError, match=r'mask\.txt: line 2: expected a vertex number below 4'):
            read_excluded_vertices(path, 4)


def test_bad_frames(tmp_path: Path) -> None:
    path = tmp_path / 'transforms.json'
    frame = {'file_path': 'a.JPG', 'is_bad': True}
    path.write_text(
        json.dumps({'frames': [frame, {'file_path': 'b.JPG'}], 'test_frames': [{**frame, 'file_path': 'c.JPG'}]})
    )
    assert read_bad_frames(path) == {'a.JPG', 'c.JPG'}
    for record in ({}, [], {'frames': [1]}, {'frames': [{'is_bad': True}]}, {'frames': 3}):
        path.write_text(json.dumps(record))
        with pytest.raises(ValueError, match=r'transforms\.json: expected frames with file_path and is_bad'):
            read_bad_frames(path)
