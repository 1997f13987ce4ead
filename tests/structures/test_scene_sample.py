"""Oracle: what mmengine does to plain tensors must happen to every field."""

import pickle

import pytest
import torch

from pano3d.structures import PanopticMap, Reconstruction, SceneSample


@pytest.fixture
def sample():
    scale = torch.ones(2, 1, 1, requires_grad=True)
    depth = torch.full((2, 3, 4), 2.0) * scale
    labels = torch.ones(2, 3, 4, dtype=torch.int64)
    sample = SceneSample(metainfo={'scene_id': 'scene0000_00', 'frame_ids': ['000000', '000020']})
    sample.gt_panoptic = PanopticMap(labels, labels)
    sample.pred_reconstruction = Reconstruction.from_depth(
        depth, torch.eye(3).repeat(2, 1, 1), torch.eye(4).repeat(2, 1, 1)
    )
    sample.pred_segments = [{'instance': 1, 'category': 0, 'score': 0.5}]
    sample.images = torch.rand(2, 3, 3, 4) * scale[:, None]
    return sample


def devices(sample):
    tensors = [sample.images, *vars(sample.gt_panoptic).values(), *vars(sample.pred_reconstruction).values()]
    return {tensor.device.type for tensor in tensors}


def test_to_moves_every_field(sample):
    moved = sample.to('meta', non_blocking=True)
    assert devices(moved) == {'meta'}
    assert devices(sample) == {'cpu'}
    assert moved.scene_id == 'scene0000_00'
    assert moved.pred_segments == sample.pred_segments


def test_cpu_and_cuda_move_every_field(sample, monkeypatch):
    asked = []
    monkeypatch.setattr(Reconstruction, 'to', lambda self, device: asked.append(device) or self)
    monkeypatch.setattr(PanopticMap, 'to', lambda self, device: asked.append(device) or self)
    monkeypatch.setattr(torch.Tensor, 'to', lambda self, device: asked.append(device) or self)
    sample.cpu()
    sample.cuda()
    assert asked == ['cpu'] * 3 + ['cuda'] * 3


def test_detach_reaches_the_geometry(sample):
    assert sample.pred_reconstruction.points.requires_grad
    detached = sample.detach()
    assert not detached.pred_reconstruction.points.requires_grad
    assert not detached.images.requires_grad
    assert torch.equal(detached.gt_panoptic.category, sample.gt_panoptic.category)
    assert sample.images.requires_grad


def test_travels_between_processes(sample):
    again = pickle.loads(pickle.dumps(sample.detach()))
    assert again.metainfo == sample.metainfo
    assert torch.equal(again.pred_reconstruction.points, sample.pred_reconstruction.points)
