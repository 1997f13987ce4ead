"""Every configuration binds: each `dict(type=...)` to its class, each `custom_keys` to a parameter."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from pano3d.engine.config import check_config, load_config
from pano3d.registry import MODELS

CONFIGS = Path(__file__).parent.parent / 'configs'
# tests/models/test_regimes.py has the ablations, tests/mmdet3d/test_host.py the detectors
RECIPES = sorted(p for p in CONFIGS.rglob('*.py') if not {'_base_', 'ablations', 'detectors'} & set(p.parts))


@pytest.fixture(params=RECIPES, ids=lambda path: str(path.relative_to(CONFIGS)))
def config(request) -> Config:
    return load_config(request.param)


def build(config: Config) -> torch.nn.Module:
    """The model without memory for its parameters; building it twice proves that configs are not consumed."""
    with torch.device('meta'), DefaultScope.overwrite_default_scope('pano3d'):
        before = copy.deepcopy(config.model.to_dict())
        MODELS.build(config.model)
        model = MODELS.build(config.model)
    assert config.model.to_dict() == before
    return model


def test_every_component_binds_and_the_model_builds_twice(config):
    assert sum(p.numel() for p in build(config).parameters()) > 0


def test_every_custom_key_matches_a_parameter(config):
    names = [name for name, _ in build(config).named_parameters()]
    for key in config.optim_wrapper.paramwise_cfg.custom_keys:
        assert any(key in name for name in names), key


def test_frozen_encoder_gets_no_gradient_and_the_rest_does(config):
    model = build(config)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    prefixes = tuple(f'backbone.{name}' for name in model.backbone.encoder_modules())
    expected = {name for name, _ in model.named_parameters() if name.startswith(prefixes)}
    with torch.device('meta'), DefaultScope.overwrite_default_scope('pano3d'):
        backbone = MODELS.build(config.model.backbone)
    never_trained = {f'backbone.{name}' for name, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen == never_trained | (expected if config.model.frozen_encoder else set())


@pytest.mark.parametrize(
    ('name', 'size', 'millions'),
    [
        ('vggt', (378, 518), 1158),  # without its track head and its point head
        ('pi3', (378, 518), 959),
        ('pi3x', (378, 518), 992),
        ('must3r', (384, 512), 423),
        ('dust3r', (384, 512), 569),
    ],
)
def test_the_recipe_is_the_papers(name, size, millions):
    config = load_config(CONFIGS / f'pano3d_{name}_scannet.py')
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        assert config[loader].dataset.pipeline[2] == dict(type='ResizeCrop', size=size), loader
    views, _, _, jitter, _ = config.train_dataloader.dataset.pipeline
    assert (views.num_views, views.max_stride) == (15, 4)
    assert jitter.type == 'ColorJitter'
    assert config.optim_wrapper.optimizer == dict(type='AdamW', lr=1e-4, weight_decay=0.05)
    assert config.optim_wrapper.clip_grad.max_norm == 1.0
    assert config.train_cfg.max_iters == 30000
    assert config.param_scheduler[0].end == 3000
    assert config.train_dataloader.batch_size == 1
    assert config.model.joint_loss.weights == dict(geometry=10.0, segmentation=1.0)
    assert config.model.segmentation_gradient == 0.1
    assert config.model.backbone.init_cfg.type == 'Pretrained'
    model = build(config)
    assert round(sum(p.numel() for p in model.backbone.parameters()) / 1e6) == millions
    assert all(side % model.backbone.patch_size == 0 for side in size)
    assert len(model.head.decoder.layers) == 9
    assert model.head.decoder.query_feature.num_embeddings == 100


def test_a_misspelt_key_is_an_error_that_names_the_right_one():
    config = Config.fromfile(CONFIGS / 'pano3d_vggt_scannet.py')
    config.model.head.decoder.num_querys = 10
    with pytest.raises(
        ValueError, match=r"model.head.decoder: QueryDecoder .* 'num_querys'; did you mean 'num_queries'"
    ):
        check_config(config)


def test_a_misspelt_option_is_an_error():
    path = CONFIGS / 'pano3d_vggt_scannet.py'
    with pytest.raises(ValueError, match="did you mean 'train_dataloader'"):
        load_config(path, {'train_dataloadr.batch_size': 2})
    with pytest.raises(ValueError, match="did you mean 'segmentation_gradient'"):
        load_config(path, {'model.segmentation_gradients': 0.5})


def test_an_unknown_type_is_an_error():
    with pytest.raises(ValueError, match=r"model.readout: no component 'MajorityVote' is registered"):
        load_config(CONFIGS / 'pano3d_vggt_scannet.py', {'model.readout.type': 'MajorityVote'})


def test_options_reach_what_they_name():
    config = load_config(CONFIGS / 'pano3d_vggt_scannet.py', {'model.head.decoder.num_queries': 200})
    assert config.model.head.decoder.num_queries == 200


def test_a_missing_file_is_an_error():
    with pytest.raises(ValueError, match='no such config'):
        load_config(CONFIGS / 'pano3d_nothing.py')
