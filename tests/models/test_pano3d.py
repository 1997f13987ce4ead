"""The whole model at tiny size: gradients of the training regimes, and what prediction returns."""

import copy

import pytest
import torch
from mmengine.registry import DefaultScope

from pano3d.registry import MODELS
from pano3d.structures import PanopticMap, Reconstruction, SceneSample

VIEWS, HEIGHT, WIDTH = 2, 28, 42


def tiny_config() -> dict:
    return dict(
        type='Pano3D',
        data_preprocessor=dict(type='SceneDataPreprocessor'),
        backbone=dict(
            type='VGGTBackbone',
            heads=('camera', 'depth'),
            position_grid=3,
            embed_dim=32,
            encoder_depth=1,
            encoder_heads=2,
            decoder_depth=4,
            decoder_heads=2,
            camera_depth=1,
            camera_heads=2,
            dense_layers=(0, 1, 2, 3),
            dense_channels=(8, 8, 8, 8),
            dense_features=8,
        ),
        head=dict(
            type='PanopticSetHead',
            bridge=dict(type='FeatureBridge', encoder_dim=32, decoder_dim=64, hidden_dim=32, out_dim=16),
            upscaler=dict(type='MaskUpscaler', dim=16, out_dim=16),
            decoder=dict(type='QueryDecoder', num_queries=6, dim=16, num_layers=2, num_heads=2, feedforward_dim=16),
            classifier=dict(type='LinearClassifier', dim=16, num_classes=20),
        ),
        joint_loss=dict(
            type='JointLoss',
            geometry=dict(type='VGGTCriterion'),
            segmentation=dict(type='SetCriterion', num_points=64),
            weights=dict(geometry=10.0, segmentation=1.0),
        ),
        readout=dict(type='WinnerTakesAllReadOut'),
        label_space='scannet20',
    )


def build(**changes):
    torch.manual_seed(0)
    config = copy.deepcopy(tiny_config())
    for place, value in changes.items():
        node = config
        *path, last = place.split('__')
        for key in path:
            node = node[key]
        node[last] = value
    with DefaultScope.overwrite_default_scope('pano3d'):
        model = MODELS.build(config)
    model.init_weights()
    return model


@pytest.fixture
def batch() -> tuple[torch.Tensor, list[SceneSample]]:
    generator = torch.Generator().manual_seed(0)
    sample = SceneSample(metainfo=dict(scene_id='a', frame_ids=['0', '1'], label_space='scannet20'))
    category = (
        torch.randint(-1, 20, (VIEWS, 2, 3), generator=generator).repeat_interleave(14, 1).repeat_interleave(14, 2)
    )
    sample.gt_panoptic = PanopticMap(category, torch.where(category > 1, category, 0))
    intrinsics = torch.tensor([[40.0, 0, 20.5], [0, 40, 13.5], [0, 0, 1]]).expand(VIEWS, 3, 3)
    pose = torch.eye(4).repeat(VIEWS, 1, 1)
    pose[1, 0, 3] = 0.3
    depth = 1 + torch.rand(VIEWS, HEIGHT, WIDTH, generator=generator)
    sample.gt_reconstruction = Reconstruction.from_depth(depth, intrinsics, pose)
    return torch.rand(1, VIEWS, 3, HEIGHT, WIDTH, generator=generator), [sample]


def gradients(model, batch, *, only: str = '') -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model.zero_grad()
    losses = model(*batch, mode='loss')
    sum(value for name, value in losses.items() if name.startswith(f'loss_{only}')).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_joint_training_reaches_everything_but_the_frozen_encoder(batch):
    model = build(frozen_encoder=True)
    found = gradients(model, batch)
    frozen = {name for name, _ in model.named_parameters() if name.startswith('backbone.aggregator.patch_embed')}
    assert frozen
    assert not frozen & set(found)
    missing = {name for name, parameter in model.named_parameters() if parameter.requires_grad} - set(found)
    assert not missing


def test_end_to_end_training_reaches_the_encoder(batch):
    found = gradients(build(frozen_encoder=False), batch)
    assert any(name.startswith('backbone.aggregator.patch_embed.blocks') for name in found)


def test_the_frozen_encoder_stays_in_evaluation_mode():
    model = build(frozen_encoder=True).train()
    assert model.training and model.backbone.training
    assert not model.backbone.aggregator.patch_embed.training


def test_the_gradient_factor_scales_what_segmentation_sends_into_the_decoder_and_nothing_else(batch):
    full = gradients(build(segmentation_gradient=1.0), batch, only='segmentation')
    tenth = gradients(build(segmentation_gradient=0.1), batch, only='segmentation')
    assert full.keys() == tenth.keys()
    for name, value in full.items():
        factor = 0.1 if name.startswith('backbone') else 1.0
        torch.testing.assert_close(tenth[name], factor * value, rtol=1e-4, atol=1e-7)
    none = gradients(build(segmentation_gradient=0.0), batch, only='segmentation')
    assert all(value.abs().max() == 0 for name, value in none.items() if name.startswith('backbone'))


def test_the_factor_changes_no_forward_value(batch):
    outputs = [build(segmentation_gradient=factor).eval()(*batch) for factor in (1.0, 0.1)]
    assert torch.equal(outputs[0].segmentation[-1].masks, outputs[1].segmentation[-1].masks)


def test_prediction_labels_every_pixel_of_every_view_and_leaves_its_input_alone(batch):
    inputs, samples = batch
    with torch.no_grad():
        [result] = build().eval()(inputs, samples, mode='predict')
    assert result.pred_panoptic.shape == (VIEWS, HEIGHT, WIDTH)
    assert result.pred_semantic.shape == (VIEWS, 20, HEIGHT, WIDTH)
    assert result.pred_reconstruction.points.shape == (VIEWS, HEIGHT, WIDTH, 3)
    assert 'pred_panoptic' not in samples[0]
    category, instance = result.pred_panoptic.category.flatten(), result.pred_panoptic.instance.flatten()
    pairs = set(zip(category.tolist(), instance.tolist(), strict=True))
    assert pairs == {(segment['category'], segment['instance']) for segment in result.pred_segments}
    assert all(0 < segment['score'] <= 1 for segment in result.pred_segments)


def test_read_outs_may_use_the_predicted_geometry(batch):
    whole = dict(type='WinnerTakesAllReadOut')
    results = []
    for readout in (whole, dict(type='ConnectedReadOut', readout=whole, voxel_size=1e-5, radius=1, min_voxels=1)):
        with torch.no_grad():
            results += build(readout=readout).eval()(*batch, mode='predict')
    assert len(results[1].pred_segments) > len(results[0].pred_segments)
    assert torch.equal(results[1].pred_panoptic.category, results[0].pred_panoptic.category)


def test_class_counts_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"19 classes, but label space 'scannet20' has 20"):
        build(head__classifier__num_classes=19)


def test_an_unknown_mode_is_refused(batch):
    with pytest.raises(ValueError, match='mode'):
        build()(*batch, mode='train')


def test_bfloat16_keeps_geometry_and_losses_in_float32_and_stays_close(batch):
    inputs, samples = batch
    exact, reduced = build(), build(precision='bfloat16')
    reduced.load_state_dict(exact.state_dict())
    outputs = [model.eval()(inputs) for model in (exact, reduced)]
    for name, expected in outputs[0].geometry.items():
        found = outputs[1].geometry[name]
        assert found.dtype == torch.float32, name
        torch.testing.assert_close(found, expected, rtol=0.1, atol=0.05)
        assert not torch.equal(found, expected), f'{name}: bfloat16 left no trace'
    assert {stage.masks.dtype for stage in outputs[1].segmentation} == {torch.float32}
    losses = reduced.train()(inputs, samples, mode='loss')
    sum(value for name, value in losses.items() if name.startswith('loss')).backward()
    for name, parameter in reduced.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match=r"`precision` must be one of .*, got 'half'"):
        build(precision='half')


def with_dinov2(**changes):
    features = dict(type='DINOv2Features', dim=16, depth=1, num_heads=2, position_grid=3, **changes)
    return build(extra_features=dict(dinov2=features), head__bridge__extra_dims=dict(dinov2=16))


def test_the_head_reads_extra_features_and_they_stay_frozen(batch):
    model = with_dinov2()
    found = gradients(model, batch)
    assert not any(name.startswith('extra_features') for name in found)
    assert model.training and not model.extra_features['dinov2'].encoder.training
    assert found['head.bridge.norms.dinov2.weight'].abs().max() > 0
    inputs, samples = batch
    masks = model.eval()(inputs).segmentation[-1].masks
    torch.nn.init.normal_(model.extra_features['dinov2'].encoder.norm.weight)
    assert not torch.allclose(model(inputs).segmentation[-1].masks, masks)
    [result] = model(inputs, samples, mode='predict')
    assert result.pred_panoptic.shape == (VIEWS, HEIGHT, WIDTH)


def test_extra_features_may_be_trained(batch):
    found = gradients(with_dinov2(frozen=False), batch)
    assert any(name.startswith('extra_features.dinov2.encoder.blocks') for name in found)


@pytest.mark.parametrize('chunk_size', [1, 8])
def test_prediction_in_chunks_is_that_of_the_last_stage(batch, chunk_size):
    model, (inputs, samples) = build(chunk_size=chunk_size).eval(), batch
    [result] = model(inputs, samples, mode='predict')
    with torch.no_grad():
        last = model(inputs).segmentation[-1][0]
    expected = model.readout(last, (HEIGHT, WIDTH), model.label_space, samples[0])
    torch.testing.assert_close(result.pred_semantic, expected.pred_semantic, rtol=2e-3, atol=1e-3)
    assert torch.equal(result.pred_panoptic.instance, expected.pred_panoptic.instance)


def test_views_of_several_sizes_are_refused_where_all_views_attend_to_each_other(batch):
    inputs, [sample] = batch
    sample.set_metainfo(dict(view_sizes=[(28, 42), (14, 28)]))
    with pytest.raises(ValueError, match=r'VGGTBackbone takes views of one size only, got \[\(14, 28\), \(28, 42\)\]'):
        build()(inputs, [sample], mode='predict')
