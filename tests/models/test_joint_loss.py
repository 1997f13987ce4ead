"""Weights and names of the terms, on criteria with known values."""

import pytest
import torch
from mmengine.model import BaseModel
from torch import nn

from pano3d.models.joint_loss import JointLoss
from pano3d.registry import MODELS
from pano3d.structures import PanopticMap, Reconstruction, SceneSample


@MODELS.register_module()
class SumGeometry(nn.Module):
    def forward(self, prediction, target):
        return {'depth': prediction['depth'].sum(), 'camera': target.depth.mean()}


@MODELS.register_module()
class CountSegments(nn.Module):
    def forward(self, predictions, targets):
        return {'mask': predictions[0].sum() + len(targets)}


def samples() -> list[SceneSample]:
    sample = SceneSample(metainfo={'scene_id': 'a'})
    sample.gt_reconstruction = Reconstruction.from_depth(
        torch.full((2, 3, 4), 2.0), torch.eye(3).expand(2, 3, 3), torch.eye(4).expand(2, 4, 4)
    )
    zeros = torch.zeros(2, 3, 4, dtype=torch.long)
    sample.gt_panoptic = PanopticMap(zeros, zeros)
    return [sample]


def loss(**changes) -> JointLoss:
    settings = dict(
        geometry=dict(type='SumGeometry'),
        segmentation=dict(type='CountSegments'),
        weights=dict(geometry=10.0, segmentation=1.0),
    )
    return JointLoss(**{**settings, **changes})


def test_terms_are_weighted_by_task_and_logged_raw():
    losses = loss()({'depth': torch.tensor([1.0, 2.0])}, [torch.tensor([0.5])], samples())
    assert losses == {
        'loss_geometry_depth': 30.0,
        'loss_geometry_camera': 20.0,
        'raw_geometry_depth': 3.0,
        'raw_geometry_camera': 2.0,
        'raw_geometry': 5.0,
        'weight_geometry': 10.0,
        'loss_segmentation_mask': 1.5,
        'raw_segmentation_mask': 1.5,
        'raw_segmentation': 1.5,
        'weight_segmentation': 1.0,
    }


def test_gradients_carry_the_weights():
    depth, mask = torch.ones(2, requires_grad=True), torch.ones(1, requires_grad=True)
    losses = loss()({'depth': depth}, [mask], samples())
    sum(value for name, value in losses.items() if name.startswith('loss')).backward()
    assert depth.grad.tolist() == [10.0, 10.0]
    assert mask.grad.tolist() == [1.0]
    assert not losses['raw_geometry'].requires_grad


@pytest.mark.parametrize('task', ['geometry', 'segmentation'])
def test_a_task_can_be_left_out(task):
    losses = loss(**{task: None})({'depth': torch.ones(1)}, [torch.ones(1)], samples())
    assert losses and not any(task in name for name in losses)


def test_terms_of_extra_heads_need_a_weight():
    extra = {'detection': {'box': torch.tensor(3.0)}}
    with pytest.raises(ValueError, match='detection'):
        loss()({'depth': torch.ones(1)}, [torch.ones(1)], samples(), extra)
    weights = dict(geometry=1.0, segmentation=1.0, detection=2.0)
    losses = loss(weights=weights)({'depth': torch.ones(1)}, [torch.ones(1)], samples(), extra)
    assert losses['loss_detection_box'] == 6.0


def test_a_task_without_weight_is_refused():
    with pytest.raises(ValueError, match=r"no entry for \['segmentation'\]"):
        loss(weights=dict(geometry=1.0))


@MODELS.register_module()
class CountLabelled(nn.Module):
    def forward(self, predictions, targets, labelled_classes):
        return {'mask': predictions[0].sum() * sum(len(classes) for classes in labelled_classes)}


def test_labelled_classes_reach_the_criterion():
    [sample] = samples()
    sample.set_metainfo({'labelled_classes': (0, 3, 4)})
    losses = loss(segmentation=dict(type='CountLabelled'))({'depth': torch.ones(1)}, [torch.ones(1)], [sample])
    assert losses['raw_segmentation'] == 3


def run(criterion: JointLoss, **arguments) -> dict[str, torch.Tensor]:
    return criterion({'depth': torch.tensor([1.0])}, [torch.tensor([0.5])], samples(), **arguments)


def test_a_weighted_task_without_terms_is_refused():
    with pytest.raises(ValueError, match=r"the tasks \['detection'\] have a weight but no terms came"):
        run(loss(weights=dict(geometry=1.0, segmentation=1.0, detection=2.0)))


def test_terms_with_the_host_s_names_are_added_up_once():
    criterion = loss(weights=dict(geometry=1.0, segmentation=1.0, boxes=2.0))
    losses = run(criterion, extra={'boxes': {'loss_center': torch.tensor(3.0), 'size_loss': torch.tensor(4.0)}})
    total, _ = BaseModel.parse_losses(None, losses)
    assert total == 3.0 + 1.5 + 2 * (3 + 4)
    assert losses['raw_boxes_center'] == 3 and losses['raw_boxes_size'] == 4


@pytest.mark.parametrize(('step', 'factor'), [(0, 0.0), (10, 0.0), (15, 0.25), (30, 1.0), (999, 1.0)])
def test_a_schedule_multiplies_the_weight_by_the_step(step, factor):
    criterion = loss(schedules=dict(segmentation=[(10, 0.0), (30, 1.0)]))
    criterion.start(step)
    losses = run(criterion)
    assert losses['weight_segmentation'] == factor
    assert losses['loss_segmentation_mask'] == factor * 1.5
    assert losses['weight_geometry'] == 10.0


def test_a_schedule_without_a_step_is_refused():
    with pytest.raises(ValueError, match='JointTrainingHook'):
        run(loss(schedules=dict(segmentation=[(0, 0.0), (30, 1.0)])))


@pytest.mark.parametrize(
    ('schedules', 'message'),
    [
        (dict(boxes=[(0, 1.0)]), "task 'boxes', which is not trained"),
        (dict(geometry=[(5, 0.0), (5, 1.0)]), 'rising steps'),
        (dict(geometry=[(0, -1.0)]), 'factors >= 0'),
        (dict(geometry=[(0, 1.0, 2.0)]), 'points'),
        (dict(geometry=[]), 'points'),
    ],
)
def test_what_is_no_schedule_is_refused(schedules, message):
    with pytest.raises(ValueError, match=message):
        loss(schedules=schedules)


@pytest.mark.parametrize('weight', [-1.0, float('nan'), float('inf')])
def test_a_meaningless_weight_is_refused(weight):
    with pytest.raises(ValueError, match='finite and >= 0'):
        loss(weights=dict(geometry=weight, segmentation=1.0))


def test_a_task_that_mmengine_would_add_up_by_its_name_is_refused():
    with pytest.raises(ValueError, match="'floss' must not be called so"):
        loss(weights=dict(geometry=1.0, segmentation=1.0, floss=1.0))
