"""Heads of further tasks beside the panoptic head."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope
from torch import Tensor, nn
from torch.nn import functional as F

from pano3d.engine.config import load_config
from pano3d.models import ExtraHead, ViewFeatures
from pano3d.registry import MODELS
from pano3d.structures import PanopticMap, Reconstruction, SceneSample

CONFIGS = Path(__file__).parents[2] / 'configs'
VIEWS = 4
SIZES = {'vggt': (28, 42), 'must3r': (32, 48)}
DIMS = {'vggt': 256, 'must3r': 128}


class ObjectShare(ExtraHead):
    """How much of each patch shows countable objects; keeps what it was shown."""

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 1)

    def init_weights(self) -> None:
        nn.init.zeros_(self.linear.weight)

    def loss(
        self, views: ViewFeatures, reconstruction: Reconstruction, samples: Sequence[SceneSample]
    ) -> dict[str, Tensor]:
        self.seen = views, reconstruction, samples
        things = torch.stack([(sample.gt_panoptic.instance > 0).float() for sample in samples])
        share = F.adaptive_avg_pool2d(things, views.grid).flatten(2)
        return {'share': F.binary_cross_entropy_with_logits(self._logits(views), share)}

    def predict(
        self, views: ViewFeatures, reconstruction: Reconstruction, samples: Sequence[SceneSample]
    ) -> list[Tensor]:
        return list(self._logits(views).sigmoid().unflatten(2, views.grid))

    def _logits(self, views: ViewFeatures) -> Tensor:
        return self.linear(views.sources['decoder'])[..., 0]


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    MODELS.register_module(module=ObjectShare)
    yield
    MODELS.module_dict.pop('ObjectShare')


def build(backbone: str, **changes):
    torch.manual_seed(0)
    config = load_config(CONFIGS / f'pano3d_{backbone}_demo.py')
    config.model.extra_heads = dict(objects=dict(type='ObjectShare', dim=DIMS[backbone]))
    config.model.joint_loss.weights = config.model.joint_loss.weights | dict(objects=2.0)
    config.merge_from_dict(changes)
    with DefaultScope.overwrite_default_scope('pano3d'):
        return MODELS.build(config.model)


def batch(backbone: str) -> tuple[Tensor, list[SceneSample]]:
    size = SIZES[backbone]
    generator = torch.Generator().manual_seed(0)
    sample = SceneSample(
        metainfo=dict(
            scene_id='a', frame_ids=list('abcd'), label_space='scannet20', keyframes=[True, True, False, False]
        )
    )
    instance = torch.randint(0, 3, (VIEWS, size[0] // 4, size[1] // 2), generator=generator)
    instance = instance.repeat_interleave(4, 1).repeat_interleave(2, 2)
    sample.gt_panoptic = PanopticMap(torch.where(instance > 0, instance + 3, 0), instance)
    intrinsics = torch.tensor([[40.0, 0, 20], [0, 40, 14], [0, 0, 1]]).expand(VIEWS, 3, 3)
    poses = torch.eye(4).repeat(VIEWS, 1, 1)
    poses[3, 0, 3] = 50.0  # this view overlaps no keyframe
    depth = 1 + torch.rand(VIEWS, *size, generator=generator)
    sample.gt_reconstruction = Reconstruction.from_depth(depth, intrinsics, poses)
    return torch.rand(1, VIEWS, 3, *size, generator=generator), [sample]


@pytest.mark.parametrize('backbone', ['vggt', 'must3r'])
def test_its_terms_are_weighted_beside_the_others_and_its_prediction_is_stored(backbone):
    model, (images, samples) = build(backbone), batch(backbone)
    losses = model.loss(images, samples)
    torch.testing.assert_close(losses['loss_objects_share'], 2 * losses['raw_objects_share'])
    assert {'raw_geometry', 'raw_segmentation'} <= set(losses)
    head = model.extra_heads['objects']
    views, reconstruction, seen = head.seen
    assert views.num_views == reconstruction.valid.shape[1] == VIEWS
    assert not reconstruction.points.requires_grad
    # Labels of the views themselves; what the online model leaves out of its losses has no valid pixel here either.
    assert torch.equal(seen[0].gt_panoptic.instance, samples[0].gt_panoptic.instance)
    assert seen[0].gt_reconstruction.valid.flatten(1).any(1).tolist() == [True, True, True, backbone == 'vggt']
    [result] = model.eval().predict(images, samples)
    assert result.pred_objects.shape == (VIEWS, *views.grid)
    assert 'pred_panoptic' in result
    assert 'pred_objects' not in samples[0]


def test_a_head_without_a_weight_is_an_error():
    model = build('vggt')
    del model.joint_loss.weights['objects']
    with pytest.raises(ValueError, match=r"no weight for the tasks \['objects'\]"):
        model.loss(*batch('vggt'))


def test_heads_are_initialised_with_the_model_and_see_single_precision():
    model = build('vggt', **{'model.precision': 'bfloat16'})
    model.init_weights()
    head = model.extra_heads['objects']
    assert not head.linear.weight.any()
    model.loss(*batch('vggt'))
    assert {value.dtype for value in head.seen[0].sources.values()} == {torch.float32}
