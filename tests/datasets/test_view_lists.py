"""Oracles: lists written by hand, and the stored scenes themselves."""

import logging
from types import SimpleNamespace

import pytest

from pano3d.datasets import (
    ScanNetMultiViewDataset,
    match_frames,
    parse_view_lines,
    read_view_lists,
    write_view_lists,
)

PACK = [{'type': 'LoadViews'}, {'type': 'ResizeCrop', 'size': (12, 16)}, {'type': 'PackScene'}]


def listed(data_root, tmp_path, views, **arguments):
    path = tmp_path / 'views.json'
    write_view_lists(path, views)
    return ScanNetMultiViewDataset(
        data_root=str(data_root),
        ann_file='train.json',
        label_space='scannet20',
        pipeline=[{'type': 'ListedViews', 'path': str(path)}, *PACK],
        **arguments,
    )


def test_lines():
    text = '# pairs\n\nscene0011_00 0 20\nscene0012_00 000040  # one view\r\nscene0011_00 40\t60\n'
    assert parse_view_lines(text) == {'scene0011_00': [['0', '20'], ['40', '60']], 'scene0012_00': [['000040']]}


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('a 0\nscene0011_00\n', 'line 2: expected SCENE FRAME'),
        ('a 0 20 0', 'line 1: .*each frame once'),
        ('# nothing\n', 'found none'),
    ],
)
def test_lines_of_another_kind(text, message):
    with pytest.raises(ValueError, match=message):
        parse_view_lines(text)


def test_frames_by_id_or_number():
    def matched(frames, *ids):
        return match_frames(frames, SimpleNamespace(scene_id='a', frames=[SimpleNamespace(id=name) for name in ids]))

    assert matched(['40', '000000'], '000000', '000020', '000040') == ['000040', '000000']
    assert matched(['DSC1', '7'], '7', 'DSC1') == ['DSC1', '7']
    with pytest.raises(ValueError, match=r"scene a has no frames \['60', 'x'\] among its 2"):
        matched(['20', '60', 'x'], '000000', '000020')
    with pytest.raises(ValueError, match=r"listed twice among \['20', '000020'\]"):
        matched(['20', '000020'], '000000', '000020')


def test_the_file_survives(tmp_path):
    views = {'a': [['0', '1'], ['2']], 'b': [['7']]}
    write_view_lists(tmp_path / 'new' / 'views.json', views)
    assert read_view_lists(str(tmp_path / 'new' / 'views.json')) == views


def test_one_sample_for_each_list(data_root, tmp_path):
    """In the order of the split; a scene that is not listed has no sample, one with pairs has one for each."""
    views = {'scene0002_00': [['000040', '000000']], 'scene0000_00': [['000000', '000020'], ['000100', '000060']]}
    dataset = listed(data_root, tmp_path, views)
    samples = [dataset[index]['data_samples'] for index in range(len(dataset))]
    assert [(sample.scene_id, sample.frame_ids) for sample in samples] == [
        ('scene0000_00-0', ['000000', '000020']),
        ('scene0000_00-1', ['000100', '000060']),
        ('scene0002_00', ['000040', '000000']),
    ]
    assert samples[1].mesh_path == f'{data_root}/scenes/scene0000_00/mesh.npz'
    assert dataset[4]['data_samples'].frame_ids == samples[1].frame_ids, 'another draw is the same: nothing is random'


def test_scenes_that_are_not_in_the_split(data_root, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(
        'pano3d.datasets.scannet_multiview.print_log', lambda message, *, logger, level: said.append((level, message))
    )
    dataset = listed(data_root, tmp_path, {'scene0002_00': [['000000']], 'scene0707_00': [['000000']]})
    assert len(dataset) == 1
    [(level, message)] = said
    assert level == logging.WARNING
    assert '1 of 2 listed scenes are not in' in message
    assert 'scene0707_00' in message
    with pytest.raises(ValueError, match='none of the 1 listed scenes'):
        listed(data_root, tmp_path, {'scene0707_00': [['000000']]})


def test_missing_frames_name_the_file(data_root, tmp_path):
    dataset = listed(data_root, tmp_path, {'scene0002_00': [['000000', '000777']]})
    with pytest.raises(ValueError, match=r"views.json: scene scene0002_00 has no frames \['000777'\]"):
        dataset[0]
