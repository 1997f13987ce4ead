"""The label spaces of the package against facts of the public benchmarks."""

from __future__ import annotations

import pytest

from pano3d.structures import LabelSpace


def test_scannet20_is_the_benchmark_subset_of_nyu40() -> None:
    space = LabelSpace.load('scannet20')
    assert space.source_ids == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 24, 28, 33, 34, 36, 39)
    assert space.source_key == 'nyu40_id'
    assert space.names[-1] == 'otherfurniture'
    assert space.category_of({'scannet_id': 4, 'nyu40_id': 7}) == space.names.index('table') == 6
    assert space.category_of({'scannet_id': 41, 'nyu40_id': 22}) == -1


def test_scannet200_has_200_classes_in_id_order() -> None:
    space = LabelSpace.load('scannet200')
    assert space.num_classes == 200
    assert list(space.source_ids) == sorted(space.source_ids)
    assert space.source_key == 'scannet_id'
    assert (space.source_ids[-1], space.names[-1]) == (1191, 'mattress')
    assert space.category_of({'scannet_id': 4, 'nyu40_id': 7}) == space.names.index('table') == 3


@pytest.mark.parametrize('name', ['scannet20', 'scannet200'])
def test_wall_and_floor_are_stuff(name: str) -> None:
    space = LabelSpace.load(name)
    assert space.name == name
    assert space.stuff == {'wall', 'floor'}
    assert space.is_stuff.nonzero().flatten().tolist() == [space.names.index('wall'), space.names.index('floor')]
    assert space.category_of({'scannet_id': None, 'nyu40_id': None}) == -1
