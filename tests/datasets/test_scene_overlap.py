"""Oracle: a room made of planes, where it is known what each camera sees of each other."""

import json

import numpy as np
import pytest

from pano3d.apis.scene_overlap import HEIGHT, measure_overlap, overlap_of
from pano3d.datasets import OverlapTable, ScanNetMultiViewDataset, read_scene


@pytest.fixture
def root(make_dataset):
    return make_dataset({'scene0000_00': 6, 'scene0001_00': 3})


def test_shares_are_those_of_exact_ray_casting(root, room):
    """The room is convex, so that nothing hides anything: a point is seen if it is inside the other image."""
    scene = read_scene(str(root / 'scenes' / 'scene0000_00'))
    table = overlap_of(scene)
    size, intrinsics = scene.frames[0].depth_size, scene.frames[0].depth_intrinsics
    poses = [room.camera(index) for index in range(6)]
    for i in range(6):
        _, points, _ = room.image(size, intrinsics, poses[i])
        for j in range(6):
            local = (points - poses[j][:3, 3]) @ poses[j][:3, :3]
            pixels = local @ intrinsics.T
            x, y = pixels[..., 0] / pixels[..., 2], pixels[..., 1] / pixels[..., 2]
            inside = (local[..., 2] > 0) & (x > -0.5) & (y > -0.5) & (x < size[0] - 0.5) & (y < size[1] - 0.5)
            assert abs(table.shares[i, j] - inside.mean()) < 0.04, (i, j)
    assert table.shares[0, 1] > 0.5 > table.shares[0, 3]


def test_every_scene_of_a_list_gets_its_table_once(root):
    first = measure_overlap(root, 'train.json')
    assert [(result.scene_id, result.num_frames, result.reused) for result in first.results] == [
        ('scene0000_00', 6, False),
        ('scene0001_00', 3, False),
    ]
    path = root / 'scenes' / 'scene0001_00' / 'overlap.npz'
    OverlapTable(('other',), np.ones((1, 1), np.float32)).write(path)
    second = measure_overlap(root, 'train.json')
    assert [result.reused for result in second.results] == [True, False], 'a table of other frames is made again'
    assert [result.reused for result in measure_overlap(root, 'train.json', redo=True).results] == [False, False]
    scene = read_scene(str(root / 'scenes' / 'scene0001_00'))
    assert np.abs(OverlapTable.read(scene).shares - overlap_of(scene).shares).max() < 1e-3


def test_a_missing_depth_image_fails_its_scene_only(root):
    (root / 'scenes' / 'scene0000_00' / 'depth' / '000020.png').unlink()
    summary = measure_overlap(root, 'train.json')
    assert '000020.png' in summary.failed[0].error
    assert [result.scene_id for result in summary.finished] == ['scene0001_00']


def test_a_file_that_is_no_list(root):
    (root / 'train.json').write_text(json.dumps({'metainfo': {}}))
    with pytest.raises(ValueError, match='not a list of stored scenes'):
        measure_overlap(root, 'train.json')


def test_height_is_what_the_document_says():
    assert HEIGHT == 36


def test_samples_of_a_data_set_keep_the_guarantees(root):
    measure_overlap(root, 'train.json')
    pipeline = [
        {'type': 'OverlapViews', 'num_views': 3, 'min_overlap': 0.3},
        {'type': 'ShuffleViews'},
        {'type': 'SplitKeyframes', 'num_keyframes': 1, 'min_overlap': 0.3},
        {'type': 'LoadViews'},
        {'type': 'ResizeCrop', 'size': (24, 32)},
        {'type': 'PackScene'},
    ]
    dataset = ScanNetMultiViewDataset(
        data_root=str(root), ann_file='train.json', label_space='scannet20', pipeline=pipeline
    )
    for index in range(10):
        sample = dataset[index]['data_samples']
        shares = OverlapTable.read(read_scene(str(root / 'scenes' / sample.scene_id)))
        views = [frame for name in sample.frame_ids for frame in _frames(root, sample.scene_id) if frame.id == name]
        table = shares.among(views)
        mutual = np.minimum(table, table.T) - np.eye(3)
        assert (mutual.max(1) >= 0.3).all(), 'each view overlaps another one'
        assert sample.keyframes[0]
        for view in range(3):
            assert max(table[view, key] for key in range(3) if sample.keyframes[key]) >= 0.3


def _frames(root, scene_id):
    return read_scene(str(root / 'scenes' / scene_id)).frames
