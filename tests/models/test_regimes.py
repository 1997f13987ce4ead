"""Which parts of the model each regime and ablation trains, found by a backward pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope

from pano3d.engine import load_config
from pano3d.models import Pano3D
from pano3d.models.parts import PARTS, parameters_by_part
from pano3d.registry import MODELS
from pano3d.structures import PanopticMap, Reconstruction, SceneSample

CONFIGS = Path(__file__).parents[2] / 'configs'
ABLATIONS = sorted((CONFIGS / 'ablations').glob('*.py'))
ENCODER, DECODER, HEADS, SEGMENTATION = PARTS
TRAINED = {
    'frozen_geometry': {SEGMENTATION},
    'geometry_only': {DECODER, HEADS},
    'segmentation_only': {DECODER, SEGMENTATION},
    'joint': {DECODER, HEADS, SEGMENTATION},
    'end_to_end': {ENCODER, DECODER, HEADS, SEGMENTATION},
}
BACKBONES = ('vggt', 'pi3', 'must3r', 'dust3r')
# The names of all parts at a size that a test can train.
SMALL_VGGT = dict(position_grid=3, embed_dim=32, encoder_depth=1, encoder_heads=2, decoder_depth=4, decoder_heads=2)
SMALL_VGGT |= dict(camera_depth=1, camera_heads=2, dense_layers=(0, 1, 2, 3), dense_channels=(8, 8, 8, 8))
SMALL_VGGT |= dict(dense_features=8, init_cfg=None)


def build(path: Path, regime: dict | None = None) -> Pano3D:
    config = load_config(path)
    if 'scannet' in path.name:
        config.model.backbone.update(SMALL_VGGT)
        config.model.head.bridge.update(encoder_dim=32, decoder_dim=64, hidden_dim=32)
        for name, features in config.model.get('extra_features', {}).items():
            features.update(dim=16, depth=1, num_heads=2, position_grid=3, init_cfg=None)
            config.model.head.bridge.extra_dims[name] = 16
    config.model.head.decoder.update(num_layers=1, feedforward_dim=16)
    if config.model.joint_loss.segmentation:
        config.model.joint_loss.segmentation.num_points = 64
    config.merge_from_dict({'model': regime or {}})
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('pano3d'):
        return MODELS.build(config.model).train()


def scene(patch: int, views: int = 2) -> tuple[torch.Tensor, list[SceneSample]]:
    generator = torch.Generator().manual_seed(0)
    height, width = 2 * patch, 3 * patch
    sample = SceneSample(metainfo=dict(scene_id='a', frame_ids=[str(view) for view in range(views)]))
    category = torch.randint(0, 20, (views, 2, 3), generator=generator)
    category = category.repeat_interleave(patch, 1).repeat_interleave(patch, 2)
    sample.gt_panoptic = PanopticMap(category, torch.where(category > 1, category, 0))
    intrinsics = torch.tensor([[40.0, 0, width / 2], [0, 40, height / 2], [0, 0, 1]]).expand(views, 3, 3)
    poses = torch.eye(4).repeat(views, 1, 1)
    poses[:, 0, 3] = 0.3 * torch.arange(views)
    depth = 1 + torch.rand(views, height, width, generator=generator)
    sample.gt_reconstruction = Reconstruction.from_depth(depth, intrinsics, poses)
    return torch.rand(1, views, 3, height, width, generator=generator), [sample]


def reached(model: Pano3D) -> dict[str, set[str]]:
    """Part -> the parameters with a gradient after one backward pass."""
    losses = model(*scene(model.backbone.patch_size), mode='loss')
    sum(value for name, value in losses.items() if name.startswith('loss')).backward()
    return {
        part: {name for name, parameter in parameters.items() if parameter.grad is not None}
        for part, parameters in parameters_by_part(model).items()
    }


def check(model: Pano3D, trained: set[str]) -> None:
    never = {f'backbone.{name}' for name in released_frozen(model)}
    found = reached(model)
    others = parameters_by_part(model)['other']
    assert found.pop('other') == {name for name in others if not name.startswith('extra_features.')}
    for part, parameters in parameters_by_part(model).items():
        if part in trained:
            assert found[part] == set(parameters) - never, part
        elif part in found:
            assert not found[part], part
            assert not any(parameter.requires_grad for parameter in parameters.values()), part


def released_frozen(model: Pano3D) -> set[str]:
    """What the backbone itself never trains: Pi3's confidence."""
    frozen = getattr(model.backbone, 'frozen', ())
    prefixes = tuple(name for part in frozen for name in model.backbone.parts()[part])
    return {name for name, _ in model.backbone.named_parameters() if prefixes and name.startswith(prefixes)}


def regime_of(path: Path) -> str:
    return next((name for name in TRAINED if path.stem.endswith(name)), 'joint')


@pytest.mark.parametrize('path', ABLATIONS, ids=lambda path: path.stem)
def test_an_ablation_trains_the_parts_of_its_regime_and_nothing_else(path):
    model = build(path)
    check(model, TRAINED[regime_of(path)])
    names = [name for name, _ in model.named_parameters()]
    for key in load_config(path).optim_wrapper.paramwise_cfg.custom_keys:
        assert any(key in name for name in names), key


@pytest.mark.slow
@pytest.mark.parametrize('regime', TRAINED)
@pytest.mark.parametrize('backbone', BACKBONES[1:])
def test_every_regime_fits_every_backbone(backbone, regime):
    changes = load_config(CONFIGS / f'ablations/vggt_demo_{regime}.py').regime.to_dict()
    check(build(CONFIGS / f'pano3d_{backbone}_demo.py', changes), TRAINED[regime])


def test_the_parts_hold_every_parameter_once():
    model = build(CONFIGS / 'pano3d_vggt_demo.py')
    parts = parameters_by_part(model)
    assert sum(map(len, parts.values())) == len(list(model.named_parameters()))
    assert all(parts[part] for part in PARTS) and not parts['other']
    assert {name.split('.')[1] for name in parts[HEADS]} == {'camera_head', 'depth_head'}
    assert all(name.startswith('backbone.aggregator.patch_embed.') for name in parts[ENCODER])


def test_an_ablation_differs_from_the_recipe_in_what_its_name_says_alone():
    recipe = load_config(CONFIGS / 'pano3d_vggt_scannet.py').to_dict()
    expected = {
        'features_encoder': ('head.bridge.features', ('encoder',)),
        'features_decoder': ('head.bridge.features', ('decoder',)),
        'loss_ratio_1': ('joint_loss.weights.geometry', 1.0),
        'loss_ratio_20': ('joint_loss.weights.geometry', 20.0),
        'gamma_05': ('segmentation_gradient', 0.5),
        'gamma_1': ('segmentation_gradient', 1.0),
        'gamma_2': ('segmentation_gradient', 2.0),
        'queries_200': ('head.decoder.num_queries', 200),
        'queries_400': ('head.decoder.num_queries', 400),
    }
    for name, (key, value) in expected.items():
        config = load_config(CONFIGS / f'ablations/vggt_scannet_{name}.py').to_dict()
        assert flat(config).items() ^ flat(recipe).items() <= {(f'model.{key}', value)} | flat(recipe).items(), name
        assert flat(config)[f'model.{key}'] == value


def flat(node: object, place: str = '') -> dict[str, object]:
    """Leaves of a config by their dotted place."""
    if not isinstance(node, dict):
        return {place: tuple(map(str, node)) if isinstance(node, list) else node}
    return {
        key: leaf for name, value in node.items() for key, leaf in flat(value, f'{place}.{name}'.lstrip('.')).items()
    }


def test_a_frozen_geometry_with_a_trained_encoder_is_refused():
    with pytest.raises(ValueError, match='`frozen_geometry` includes the encoder'):
        build(CONFIGS / 'pano3d_vggt_demo.py', dict(frozen_geometry=True))


MODES = {
    'plain': {},
    'bfloat16': dict(precision='bfloat16'),
    'recomputed activations': dict(backbone=dict(checkpoint_activations=True)),
}


@pytest.mark.parametrize('mode', MODES.values(), ids=MODES)
def test_the_gradient_factor_and_its_measurement_change_no_value_and_scale_one_gradient(mode):
    rules = {'one': 1.0, 'half': 0.5, 'measured': dict(_delete_=True, type='MeasuredGradientFactor', initial=0.5)}
    losses, gradients = {}, {}
    for name, rule in rules.items():
        model = build(CONFIGS / 'pano3d_vggt_demo.py', dict(segmentation_gradient=rule, **mode))
        model.start_step(0)
        assert model.gradient_meter.enabled is (name == 'measured')
        torch.manual_seed(1)
        found = model(*scene(model.backbone.patch_size), mode='loss')
        sum(value for term, value in found.items() if term.startswith('loss_segmentation')).backward()
        losses[name] = {term: value.detach() for term, value in found.items()}
        gradients[name] = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    assert losses['one'] == losses['half'] == losses['measured']
    for name, value in gradients['half'].items():
        assert torch.equal(value, gradients['measured'][name]), name
        if name.startswith('backbone.aggregator.global_blocks'):  # not E, which also enters the bridge directly
            torch.testing.assert_close(value, 0.5 * gradients['one'][name], rtol=1e-3, atol=1e-7)
        elif name.startswith('head.'):
            assert torch.equal(value, gradients['one'][name]), name
    assert all(gradients['half'][name].any() for name in gradients['half'] if 'global_blocks.0.attn' in name)
