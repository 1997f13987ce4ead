"""Oracles: the class lists that the benchmarks publish, and mappings by hand."""

import json

import pytest

from pano3d.structures import LabelSpace


def toy(**changes):
    values = {
        'name': 'toy',
        'names': ('floor', 'chair', 'wall'),
        'source_ids': (2, 5, 1),
        'source_key': 'nyu40_id',
        'stuff': frozenset({'wall', 'floor'}),
    }
    return LabelSpace(**{**values, **changes})


def test_scannet20_is_the_benchmark():
    space = LabelSpace.load('scannet20')
    assert space.source_ids == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 24, 28, 33, 34, 36, 39)
    assert space.names[4] == 'chair'
    assert space.names[-1] == 'otherfurniture'
    assert (space.num_classes, space.source_key) == (20, 'nyu40_id')


def test_scannet200_is_the_benchmark():
    space = LabelSpace.load('scannet200')
    assert (space.num_classes, space.source_key) == (200, 'scannet_id')
    assert [space.names[space.source_ids.index(i)] for i in (1, 2, 3)] == ['wall', 'chair', 'floor']


def test_thing_or_stuff_does_not_follow_from_the_order():
    assert toy().is_stuff.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ('record', 'category'),
    [
        ({'nyu40_id': 5}, 1),
        ({'nyu40_id': 2}, 0),
        ({'nyu40_id': 40}, -1),
        ({'nyu40_id': None}, -1),
        ({'scannet_id': 5}, -1),
    ],
)
def test_category_of(record, category):
    assert toy().category_of(record) == category


def test_describe():
    assert toy().describe([1, -1, 2]) == ['chair', 'void', 'wall']


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'source_ids': (1, 2)}, '3 names but 2 ids'),
        ({'names': ('wall', 'wall', 'floor')}, '`names` repeats an entry'),
        ({'source_ids': (1, 2, 2)}, '`source_ids` repeats an entry'),
        ({'stuff': frozenset({'sky'})}, r"stuff classes \['sky'\] are not among its names"),
    ],
)
def test_contradictions(changes, message):
    with pytest.raises(ValueError, match=f"label space 'toy': {message}"):
        toy(**changes)


def test_load_any_file(tmp_path):
    path = tmp_path / 'mine.json'
    classes = [{'name': n, 'id': i, 'stuff': n != 'chair'} for n, i in (('floor', 2), ('chair', 5), ('wall', 1))]
    path.write_text(json.dumps({'name': 'toy', 'source_key': 'nyu40_id', 'classes': classes}))
    assert LabelSpace.load(str(path)) == toy()


@pytest.mark.parametrize('content', ['{"name": "x"}', 'not json', '{"name": "x", "source_key": "y", "classes": [1]}'])
def test_damaged_file(tmp_path, content):
    path = tmp_path / 'mine.json'
    path.write_text(content)
    with pytest.raises(ValueError, match=r'mine.json: a label space needs name, source_key and classes'):
        LabelSpace.load(str(path))


def test_unknown_name():
    with pytest.raises(ValueError, match=r"no label space 'scannet'.*'scannet20', 'scannet200'"):
        LabelSpace.load('scannet')


class TestUnion:
    OTHER = toy(
        name='other',
        names=('wall', 'lamp', 'chair'),
        source_ids=(70, 71, 72),
        source_key='x',
        stuff=frozenset({'chair'}),
    )

    def test_classes_of_one_name_are_one_class(self):
        union = LabelSpace.union([toy(), self.OTHER])
        assert union.name == 'toy+other'
        assert union.names == ('floor', 'chair', 'wall', 'lamp')
        assert union.stuff == {'wall', 'floor', 'chair'}, 'stuff anywhere is stuff'
        assert union.labelled_classes == ()
        assert union.category_of({'nyu40_id': 5, 'x': 72, '': None}) == -1

    def test_a_part_reads_its_own_annotation(self):
        union = LabelSpace.union([toy(), self.OTHER])
        first, second = toy().within(union), self.OTHER.within(union)
        assert first.names == second.names == union.names
        assert (first.labelled_classes, second.labelled_classes) == ((0, 1, 2), (1, 2, 3))
        for space, record, expected in (
            (first, {'nyu40_id': 5}, 1),
            (first, {'nyu40_id': 71}, -1),
            (first, {'nyu40_id': None}, -1),
            (second, {'x': 71}, 3),
            (second, {'x': 70}, 2),
            (second, {'nyu40_id': 5}, -1),
        ):
            assert space.category_of(record) == expected
        assert toy().labelled_classes == (0, 1, 2)

    def test_a_class_that_the_model_lacks_is_void(self):
        part = self.OTHER.within(toy())
        assert part.labelled_classes == (1, 2)
        assert part.category_of({'x': 71}) == -1

    def test_nothing_in_common(self):
        with pytest.raises(ValueError, match="'toy' and 'far' have no annotated class in common"):
            toy().within(toy(name='far', names=('a', 'b', 'c'), stuff=frozenset()))

    def test_by_name(self):
        union = LabelSpace.load('scannet20+scannetpp100')
        first, second = LabelSpace.load('scannet20'), LabelSpace.load('scannetpp100')
        assert set(union.names) == {*first.names, *second.names}
        assert union.num_classes == len({*first.names, *second.names}) == 105
        assert [union.names[i] for i in first.within(union).labelled_classes] == list(first.names)
        with pytest.raises(ValueError, match="no label space 'scannet2'"):
            LabelSpace.load('scannet20+scannet2')
