"""Oracles: the faces of the room, and labels mapped by hand."""

import io
from dataclasses import fields

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate

from pano3d.datasets import PackScene, ScanNetMultiViewDataset
from pano3d.datasets.transforms.packing import panoptic_from_instances
from pano3d.models.data_preprocessor import SceneDataPreprocessor
from pano3d.structures import LabelSpace, Reconstruction

PIPELINE = [
    {'type': 'LinspaceViews', 'num_views': 4},
    {'type': 'LoadViews'},
    {'type': 'ResizeCrop', 'size': (28, 42)},
    {'type': 'PackScene'},
]
LABELS = LabelSpace(
    name='toy', names=('floor', 'chair', 'wall'), source_ids=(2, 5, 1), source_key='nyu40_id', stuff={'wall', 'floor'}
)


@pytest.fixture(scope='module')
def packed(data_root):
    dataset = ScanNetMultiViewDataset(
        data_root=str(data_root), ann_file='train.json', label_space='scannet20', pipeline=PIPELINE
    )
    item = dataset[1]
    return {**item, 'data_samples': item['data_samples'].unpacked()}


def test_labels_by_hand():
    records = [{'id': 3, 'nyu40_id': 5}, {'id': 7, 'nyu40_id': 1}, {'id': 9, 'nyu40_id': 40}, {'id': 4, 'nyu40_id': 5}]
    records.append({'id': 12, 'nyu40_id': None})
    instance = np.array([[0, 3, 3, 4], [7, 9, 12, 7]], np.int32)
    panoptic = panoptic_from_instances(instance, records, LABELS)
    assert panoptic.category.tolist() == [[-1, 1, 1, 1], [2, -1, -1, 2]]
    assert panoptic.instance.tolist() == [[0, 3, 3, 4], [0, 0, 0, 0]]


def test_nothing_annotated():
    panoptic = panoptic_from_instances(np.zeros((2, 3), np.int32), [], LABELS)
    assert (panoptic.category == -1).all()
    assert (panoptic.instance == 0).all()


def test_an_unknown_id_is_an_error():
    with pytest.raises(ValueError, match=r'ids \[5, 8\] that scene.json does not list'):
        panoptic_from_instances(np.array([[0, 5, 3, 8, 8]], np.int32), [{'id': 3, 'nyu40_id': 5}], LABELS)


def test_tensors(packed):
    sample = packed['data_samples']
    assert packed['inputs'].dtype == torch.uint8
    assert packed['inputs'].shape == (4, 3, 28, 42)
    assert packed['inputs'].is_contiguous()
    assert sample.gt_panoptic.shape == sample.gt_reconstruction.valid.shape == (4, 28, 42)
    assert sample.gt_reconstruction.points.dtype == torch.float32


def test_what_is_copied_is_small(data_root):
    """Three bytes of colour, four of depth and two each of category and instance per pixel, and no copy of them."""
    dataset = ScanNetMultiViewDataset(
        data_root=str(data_root), ann_file='train.json', label_space='scannet20', pipeline=PIPELINE
    )
    stream = io.BytesIO()
    torch.save(dataset[1], stream)
    pixels = 4 * 28 * 42
    assert 11 * pixels <= stream.tell() <= 11 * pixels + 10_000  # names and cameras


def test_the_preprocessor_gives_the_labels_and_points_of_the_full_computation(data_root):
    dataset = ScanNetMultiViewDataset(
        data_root=str(data_root), ann_file='train.json', label_space='scannet20', pipeline=PIPELINE[:-1]
    )
    results = dataset[1]
    batch = SceneDataPreprocessor()(pseudo_collate([PackScene()(results)]))
    (sample,) = batch['data_samples']
    expected = Reconstruction.from_depth(
        *(torch.from_numpy(results[name]).float() for name in ('depth', 'intrinsics', 'camera_to_world'))
    )
    for field in fields(Reconstruction):
        found, wanted = getattr(sample.gt_reconstruction, field.name), getattr(expected, field.name)
        assert found.dtype == wanted.dtype
        assert torch.equal(found, wanted), field.name
    category_of = np.array([-1, 0, 13, 1, -1, -1])
    instance_of = np.array([0, 0, 2, 0, 0, 0])
    for name, table in (('category', category_of), ('instance', instance_of)):
        labels = getattr(sample.gt_panoptic, name)
        assert labels.dtype == torch.int64
        np.testing.assert_array_equal(labels.numpy(), table[results['instance']])
    assert 'gt_depth' not in sample
    np.testing.assert_array_equal(batch['inputs'][0].permute(0, 2, 3, 1).mul(255).round().numpy(), results['color'])


@pytest.mark.parametrize(('last', 'dtype'), [(32767, torch.int16), (32768, torch.int32), (65535, torch.int32)])
def test_large_ids(last, dtype):
    instance = np.array([[0, last]], np.uint16)
    panoptic = panoptic_from_instances(instance, [{'id': last, 'nyu40_id': 5}], LABELS)
    assert panoptic.instance.tolist() == [[0, last]]
    assert panoptic.instance.dtype == dtype


def test_ids_that_no_image_can_have_cost_nothing():
    records = [{'id': 3, 'nyu40_id': 5}, {'id': 10**15, 'nyu40_id': 5}]
    panoptic = panoptic_from_instances(np.array([[0, 3]], np.uint8), records, LABELS)
    assert panoptic.category.tolist() == [[-1, 1]]


def test_meta_information(packed, data_root):
    sample = packed['data_samples']
    assert sample.scene_id == 'scene0001_00'
    assert sample.frame_ids == ['000000', '000040', '000100', '000160']
    assert sample.label_space == 'scannet20'
    assert sample.mesh_path == f'{data_root}/scenes/scene0001_00/mesh.npz'
    # wall, curtain (index 13), floor; the ceiling and the gizmo are not among the 20 classes
    assert sample.instance_categories == {1: 0, 2: 13, 3: 1, 4: -1, 5: -1}


def test_geometry_and_labels_are_those_of_the_room(packed, room):
    """Ray casting with the packed cameras gives the packed points and labels."""
    sample = packed['data_samples']
    truth = sample.gt_reconstruction
    categories = np.array([-1, 0, 13, 1, -1, -1])
    for i in range(4):
        camera, pose = truth.intrinsics[i].double().numpy(), truth.camera_to_world[i].double().numpy()
        _, points, instance = room.image((42, 28), camera, pose)
        valid = truth.valid[i].numpy()
        assert valid.mean() > 0.6
        error = np.linalg.norm(truth.points[i].numpy() - points, axis=-1)[valid]
        assert np.median(error) < 0.05
        category = sample.gt_panoptic.category[i].numpy()
        assert (category == categories[instance]).mean() > 0.97
        # only the curtain is a thing
        np.testing.assert_array_equal(sample.gt_panoptic.instance[i].numpy(), np.where(category == 13, 2, 0))
    assert {-1, 0, 1, 13} == set(sample.gt_panoptic.category.unique().tolist())


def test_one_stored_scene_serves_scannet200(data_root):
    dataset = ScanNetMultiViewDataset(
        data_root=str(data_root), ann_file='train.json', label_space='scannet200', pipeline=PIPELINE
    )
    names = dataset.metainfo['classes']
    sample = dataset[1]['data_samples']
    categories = {i: names[c] for i, c in sample.instance_categories.items() if c >= 0}
    assert categories == {1: 'wall', 2: 'curtain', 3: 'floor', 4: 'ceiling'}
    assert sample.gt_panoptic.instance.unique().tolist() == [0, 2, 4]  # the ceiling is a thing there


def test_an_unknown_id_names_the_scene(make_dataset):
    root = make_dataset({'a': 4})
    path = root / 'scenes' / 'a' / 'scene.json'
    path.write_text(path.read_text().replace('"id": 2,', '"id": 22,'))
    dataset = ScanNetMultiViewDataset(
        data_root=str(root), ann_file='train.json', label_space='scannet20', pipeline=PIPELINE
    )
    with pytest.raises(ValueError, match=r"scene a, frames \['000000', .*ids \[2\]"):
        dataset[0]
