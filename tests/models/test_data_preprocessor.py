"""Oracles: division by hand, and mmengine's own collate function."""

import pytest
import torch
from mmengine.dataset import pseudo_collate

from pano3d.models.data_preprocessor import SceneDataPreprocessor
from pano3d.registry import MODELS
from pano3d.structures import DepthViews, PanopticMap, Reconstruction, SceneSample


def item(seed=0, *, views=2, height=4, width=6):
    generator = torch.Generator().manual_seed(seed)
    depth = torch.rand(views, height, width, generator=generator) + 1
    labels = torch.randint(0, 3, (views, height, width), generator=generator)
    intrinsics = torch.tensor([[5.0, 0, 2.5], [0, 5.0, 1.5], [0, 0, 1]]).repeat(views, 1, 1)
    sample = SceneSample(metainfo={'scene_id': f'scene{seed}'})
    sample.gt_panoptic = PanopticMap(labels, labels)
    sample.gt_reconstruction = Reconstruction.from_depth(depth, intrinsics, torch.eye(4).repeat(views, 1, 1))
    images = torch.randint(0, 256, (views, 3, height, width), dtype=torch.uint8, generator=generator)
    return {'inputs': images, 'data_samples': sample}


@pytest.mark.parametrize('training', [True, False])
def test_batch(training):
    items = [item(0), item(1)]
    batch = SceneDataPreprocessor()(pseudo_collate(items), training)
    assert batch['inputs'].dtype == torch.float32
    expected = torch.stack([i['inputs'] for i in items]).double() / 255
    torch.testing.assert_close(batch['inputs'].double(), expected, rtol=0, atol=1e-7)
    for scene, (sample, source) in enumerate(zip(batch['data_samples'], items, strict=True)):
        assert torch.equal(sample.images, batch['inputs'][scene])
        assert sample.scene_id == source['data_samples'].scene_id
        assert torch.equal(sample.gt_panoptic.category, source['data_samples'].gt_panoptic.category)
        assert 'images' not in source['data_samples'], 'the input stays'


def test_black_is_zero_and_white_is_one():
    images = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1).repeat(1, 3, 1, 1)
    batch = SceneDataPreprocessor()({'inputs': [images]})
    assert batch['inputs'][0, :, 0, 0, 0].tolist() == [0.0, 1.0]
    assert batch['data_samples'] is None


def test_everything_moves_to_the_device():
    preprocessor = SceneDataPreprocessor(non_blocking=True).to('meta')
    batch = preprocessor(pseudo_collate([item()]))
    (sample,) = batch['data_samples']
    tensors = [batch['inputs'], sample.images, sample.gt_panoptic.category, sample.gt_panoptic.instance]
    tensors += vars(sample.gt_reconstruction).values()
    assert {tensor.device.type for tensor in tensors} == {'meta'}


def packed(seed=0):
    whole = item(seed)
    sample = SceneSample(metainfo=whole['data_samples'].metainfo)
    truth, labels = whole['data_samples'].gt_reconstruction, whole['data_samples'].gt_panoptic
    sample.gt_depth = DepthViews(truth.depth, truth.intrinsics, truth.camera_to_world)
    sample.gt_panoptic = PanopticMap(labels.category.short(), labels.instance.int())
    return whole, {**whole, 'data_samples': sample}


@pytest.mark.parametrize('autocast', [False, True])
def test_packed_samples_become_what_they_were_packed_from(autocast):
    wholes, packages = zip(packed(0), packed(1), strict=True)
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        batch = SceneDataPreprocessor()(pseudo_collate(packages), True)
    for sample, whole, package in zip(batch['data_samples'], wholes, packages, strict=True):
        expected = whole['data_samples']
        for kind in ('gt_reconstruction', 'gt_panoptic'):
            for name, value in vars(getattr(expected, kind)).items():
                found = getattr(getattr(sample, kind), name)
                assert found.dtype == value.dtype
                assert torch.equal(found, value), name
        assert set(sample.keys()) == {'gt_reconstruction', 'gt_panoptic', 'images'}
        assert set(package['data_samples'].keys()) == {'gt_depth', 'gt_panoptic'}, 'the input stays'


@pytest.mark.parametrize('other', [{'views': 3}, {'height': 8}, {'width': 8}])
def test_different_shapes(other):
    with pytest.raises(ValueError, match=r'same number and size of views, got \[.*\]; use `batch_size=1`'):
        SceneDataPreprocessor()(pseudo_collate([item(), item(**other)]))


@pytest.mark.parametrize(
    ('images', 'message'),
    [
        (torch.rand(2, 3, 4, 6), r'\(V, 3, H, W\) uint8, got \(2, 3, 4, 6\) torch.float32'),
        (torch.zeros(2, 4, 6, 3, dtype=torch.uint8), r'got \(2, 4, 6, 3\)'),
        (torch.zeros(3, 4, 6, dtype=torch.uint8), r'got \(3, 4, 6\)'),
    ],
)
def test_wrong_images(images, message):
    with pytest.raises(ValueError, match=message):
        SceneDataPreprocessor()({'inputs': [images]})


def test_a_sample_is_missing():
    with pytest.raises(ValueError, match='2 image tensors but 1 data samples'):
        SceneDataPreprocessor()({'inputs': [item()['inputs']] * 2, 'data_samples': [item()['data_samples']]})


def test_registered():
    assert isinstance(MODELS.build({'type': 'SceneDataPreprocessor'}), SceneDataPreprocessor)
