"""Both phases of the online model at tiny size, on made-up rooms of random pictures."""

import pytest
import torch
from mmengine.registry import DefaultScope

from pano3d.models import OnlinePano3D, images_on_canvas
from pano3d.models.mixed_sizes import view_sizes_of
from pano3d.registry import MODELS
from pano3d.structures import PanopticMap, Reconstruction, SceneSample

VIEWS, SIZE, PATCH, DIM = 5, (16, 24), 4, 16
STAGES = 3


def build(**changes) -> OnlinePano3D:
    torch.manual_seed(0)
    config = dict(
        type='OnlinePano3D',
        backbone=dict(
            type='MUSt3RBackbone',
            patch_size=PATCH,
            encoder_dim=16,
            encoder_depth=1,
            encoder_heads=2,
            decoder_dim=24,
            decoder_depth=2,
            decoder_heads=3,
            max_keyframes=3,
            training_keyframes=2,
        ),
        head=dict(
            type='PanopticSetHead',
            bridge=dict(type='FeatureBridge', encoder_dim=16, decoder_dim=24, hidden_dim=32, out_dim=DIM),
            upscaler=dict(type='MaskUpscaler', dim=DIM, out_dim=DIM),
            decoder=dict(
                type='QueryDecoder', num_queries=6, dim=DIM, num_layers=STAGES - 1, num_heads=2, feedforward_dim=16
            ),
            classifier=dict(type='LinearClassifier', dim=DIM, num_classes=20),
        ),
        joint_loss=dict(
            type='JointLoss',
            geometry=dict(type='MUSt3RCriterion'),
            segmentation=dict(type='SetCriterion', num_points=64),
            weights=dict(geometry=10.0, segmentation=1.0),
        ),
        readout=dict(type='WinnerTakesAllReadOut'),
        label_space='scannet20',
        frozen_encoder=False,
    )
    with DefaultScope.overwrite_default_scope('pano3d'):
        model = MODELS.build(config | changes)
    model.init_weights()
    return model


def made_up_sample(views: int = VIEWS, *, size=SIZE, seed: int = 0, **meta) -> SceneSample:
    """Cameras side by side in front of a wall, labelled in blocks; neighbours share most of what they see."""
    generator = torch.Generator().manual_seed(seed)
    sample = SceneSample(
        metainfo=dict(scene_id='a', frame_ids=[str(v) for v in range(views)], label_space='scannet20') | meta
    )
    height, width = size
    blocks = torch.randint(0, 20, (views, height // PATCH, width // PATCH), generator=generator)
    category = blocks.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)
    sample.gt_panoptic = PanopticMap(category, torch.where(category > 1, category, 0))
    intrinsics = torch.tensor([[20.0, 0, (width - 1) / 2], [0, 20, (height - 1) / 2], [0, 0, 1]]).expand(views, 3, 3)
    pose = torch.eye(4).repeat(views, 1, 1)
    pose[:, 0, 3] = 0.1 * torch.arange(views)
    sample.gt_reconstruction = Reconstruction.from_depth(torch.full((views, *size), 2.0), intrinsics, pose)
    return sample


def random_images(views: int = VIEWS, size=SIZE, scenes: int = 1) -> torch.Tensor:
    return torch.rand(scenes, views, 3, *size, generator=torch.Generator().manual_seed(1))


def predict(model: OnlinePano3D, images: torch.Tensor, sample: SceneSample | None = None) -> SceneSample:
    sample = sample or SceneSample(metainfo=dict(scene_id='a', label_space='scannet20'))
    [result] = model.eval()(images, [sample], mode='predict')
    return result


def flags(*keyframes: int, views: int = VIEWS) -> list[bool]:
    return [view in keyframes for view in range(views)]


def test_both_phases_lie_side_by_side():
    model = build().train()
    output = model(
        random_images(scenes=2), [made_up_sample(keyframes=flags(0, 3)), made_up_sample(keyframes=flags(0, 4))]
    )
    assert output.geometry['update_views'].tolist() == [[0, 3], [0, 4]]
    assert output.geometry['points'].shape == (2, VIEWS, *SIZE, 3)
    assert output.geometry['update_points'].shape == (2, 2, *SIZE, 3)
    assert len(output.segmentation) == STAGES
    for stage in output.segmentation:
        assert stage.classes.shape == (2, 2, 6, 21)
        assert stage.masks.shape == (2, 6, 2 + VIEWS, *SIZE)
        assert stage.extents is None


def test_scenes_of_a_batch_do_not_see_each_other():
    model, images = build().train(), random_images(scenes=2)
    samples = [made_up_sample(keyframes=flags(0, 3)), made_up_sample(keyframes=flags(0, 4))]
    together = model(images, samples)
    for scene in (0, 1):
        alone = model(images[scene : scene + 1], [samples[scene]])
        torch.testing.assert_close(alone.segmentation[-1].masks[0], together.segmentation[-1].masks[scene])
        torch.testing.assert_close(alone.geometry['update_points'][0], together.geometry['update_points'][scene])


def test_rendering_starts_with_the_queries_of_the_update():
    """Before its first layer the second phase says of each query what the first one ended with: the same object."""
    output = build().train()(random_images(), [made_up_sample(keyframes=flags(0, 2))])
    started, ended = output.segmentation[0], output.segmentation[-1]
    torch.testing.assert_close(started.classes[:, 1], ended.classes[:, 0])


def test_a_query_keeps_its_object_in_both_phases():
    """One picture throughout: all phases see the same, so a query that finds its object again draws the same mask.

    The layers change nothing, so that Q_render is Q_update, and nothing but the order of the queries could differ.
    """
    model = build().eval()
    for layer in model.head.decoder.layers:
        for name, parameter in layer.named_parameters():
            if name.endswith(('out_proj.weight', 'out_proj.bias', 'feedforward.2.weight', 'feedforward.2.bias')):
                torch.nn.init.zeros_(parameter)
    images = random_images(1).expand(-1, 4, -1, -1, -1)
    stage = model(images, [made_up_sample(4, keyframes=flags(0, 1, views=4))]).segmentation[-1]
    masks = stage.masks[0]
    assert (masks[:, 0] - masks.roll(1, 0)[:, 0]).abs().amax((1, 2)).min() > 1e-3, 'queries must differ'
    distance = torch.cdist(masks[:, 1].flatten(1), masks[:, 3].flatten(1))  # a keyframe as it entered, and rendered
    assert torch.equal(distance.argmin(1), torch.arange(6))
    torch.testing.assert_close(stage.classes[:, 0], stage.classes[:, 1])


def test_rendering_sends_no_gradient_into_the_queries_of_the_update():
    model = build().train()
    stage = model(random_images(), [made_up_sample(keyframes=flags(0, 3))]).segmentation[-1]
    decoder = model.head.decoder
    learned = [decoder.query_feature.weight, decoder.query_position.weight]
    update, render = stage.masks[:, :, :2].square().sum(), stage.masks[:, :, 2:].square().sum()
    assert all(gradient.abs().max() == 0 for gradient in torch.autograd.grad(render, learned, retain_graph=True))
    assert all(gradient.abs().max() > 0 for gradient in torch.autograd.grad(update, learned, retain_graph=True))
    memory = model.backbone.decoder.blocks_dec[0].cross_attn.projk.weight
    assert torch.autograd.grad(render, memory)[0].abs().max() > 0, 'the frame memory does learn from what is rendered'


def test_every_parameter_learns_from_both_tasks():
    model = build().train()
    losses = model(random_images(), [made_up_sample(keyframes=flags(0, 3))], mode='loss')
    assert {'loss_geometry_points', 'loss_geometry_update_points', 'loss_segmentation_class'} <= set(losses)
    sum(value for name, value in losses.items() if name.startswith('loss')).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_the_gradient_factor_acts_once_in_either_phase():
    """Through F of the keyframes, F of the views, and the memory: all that segmentation sends is scaled alike."""
    found = []
    for factor in (1.0, 0.1):
        model = build(segmentation_gradient=factor, frozen_encoder=True).train()
        losses = model(random_images(), [made_up_sample(keyframes=flags(0, 3))], mode='loss')
        sum(value for name, value in losses.items() if name.startswith('loss_segmentation')).backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        torch.manual_seed(0)
    full, tenth = found
    assert full.keys() == tenth.keys() and not any('backbone.encoder' in name for name in full)
    assert any(name.startswith('backbone.decoder') for name in full)
    for name, value in full.items():
        factor = 0.1 if name.startswith('backbone') else 1.0
        torch.testing.assert_close(tenth[name], factor * value, rtol=1e-3, atol=1e-6)


def test_without_named_keyframes_the_network_draws_them():
    model = build().train()
    drawn = [tuple(model._keyframes([made_up_sample()], 1, VIEWS)[0]) for _ in range(30)]
    assert {len(views) for views in drawn} == {2}
    assert {views[0] for views in drawn} == {0}
    assert len(set(drawn)) > 1
    assert len({tuple(views) for views in model._keyframes(None, 3, VIEWS)}) == 1, 'one draw for all scenes of a batch'
    assert model.eval()._keyframes(None, 1, VIEWS) == [[0, 2, 4]]


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        ([flags(1, 2)], 'True for the first view'),
        ([[True]], f'must be {VIEWS} flags'),
        ([flags(0, 1), flags(0)], r'the same number of keyframes, got \[2, 1\]'),
        ([flags(0, 1), None], f'must be {VIEWS} flags'),
    ],
)
def test_wrong_keyframes_are_refused(given, message):
    samples = [made_up_sample(**({} if f is None else {'keyframes': f})) for f in given]
    with pytest.raises(ValueError, match=message):
        build().train()(random_images(scenes=len(given)), samples)


def test_a_rendered_view_that_no_keyframe_overlaps_counts_in_neither_loss():
    model, sample = build().train(), made_up_sample(keyframes=flags(0, 1))
    poses = sample.gt_reconstruction.camera_to_world.clone()
    poses[3, 0, 3] += 50.0  # far away
    far = made_up_sample(keyframes=flags(0, 1))
    cameras, depth = sample.gt_reconstruction.intrinsics, sample.gt_reconstruction.depth
    far.gt_reconstruction = Reconstruction.from_depth(depth, cameras, poses)
    output = model(random_images(), [far])
    [target] = model._targets(output, [far])
    assert target.gt_panoptic.shape == (2 + VIEWS, *SIZE)
    assert target.gt_reconstruction.valid.flatten(1).any(1).tolist() == [True, True, True, False, True]
    assert (target.gt_panoptic.category >= 0).flatten(1).any(1).tolist() == [True, True, True, True, True, False, True]
    assert torch.equal(target.gt_panoptic.category[:2], far.gt_panoptic.category[:2])
    assert torch.equal(target.gt_panoptic.instance[2:5], far.gt_panoptic.instance[:3])
    assert (far.gt_panoptic.category >= 0).all() and far.gt_reconstruction.valid.all(), 'inputs are left alone'
    masks = output.segmentation[-1].masks
    masks.retain_grad(), output.geometry['points'].retain_grad()
    losses = model.joint_loss(output.geometry, output.segmentation, [target])
    sum(value for name, value in losses.items() if name.startswith('loss')).backward()
    assert masks.grad[:, :, 2 + 3].abs().max() == 0 and masks.grad[:, :, 2 + 4].abs().max() > 0
    assert output.geometry['points'].grad[:, 3].abs().max() == 0
    assert output.geometry['points'].grad[:, 4].abs().max() > 0


def test_a_view_without_depth_is_not_said_to_overlap_nothing():
    model, sample = build(), made_up_sample()
    depth = sample.gt_reconstruction.depth.clone()
    depth[2] = 0
    target = Reconstruction.from_depth(
        depth, sample.gt_reconstruction.intrinsics, sample.gt_reconstruction.camera_to_world
    )
    assert model._seen(target, torch.tensor([0])).all()


@pytest.mark.parametrize('chunk_size', [1, 2, 100])
def test_the_size_of_chunks_does_not_matter(chunk_size):
    images = random_images(7)
    expected, found = predict(build(chunk_size=3), images), predict(build(chunk_size=chunk_size), images)
    torch.testing.assert_close(found.pred_semantic, expected.pred_semantic, rtol=2e-3, atol=1e-3)
    torch.testing.assert_close(
        found.pred_reconstruction.points, expected.pred_reconstruction.points, rtol=1e-4, atol=1e-4
    )


def test_permuting_rendered_frames_permutes_what_is_rendered():
    """Frames 0, 3, 6 are the keyframes; the others change their places."""
    order = [0, 5, 1, 3, 2, 4, 6]
    images, model = random_images(7), build()
    straight, permuted = predict(model, images), predict(model, images[:, order])
    assert (straight.pred_semantic[1] - straight.pred_semantic[2]).abs().max() > 1e-2
    torch.testing.assert_close(permuted.pred_semantic, straight.pred_semantic[order], rtol=2e-3, atol=1e-3)
    points = straight.pred_reconstruction.points[order]
    torch.testing.assert_close(permuted.pred_reconstruction.points, points, rtol=1e-4, atol=1e-4)


def test_prediction_is_the_forward_pass_of_eval_mode():
    model, images = build().eval(), random_images(6)
    result = predict(model, images)
    with torch.no_grad():
        output = model(images)
    assert output.geometry['update_views'].tolist() == [[0, 2, 5]]
    torch.testing.assert_close(result.pred_reconstruction.points, output.geometry['points'][0], rtol=1e-4, atol=1e-4)
    last = output.segmentation[-1]
    rendered = type(last)(last.classes[:, 1], last.masks[:, :, 3:])
    expected = model.readout(rendered[0], SIZE, model.label_space, SceneSample())
    torch.testing.assert_close(result.pred_semantic, expected.pred_semantic, rtol=2e-3, atol=1e-3)


def test_predictions_go_where_they_are_wanted():
    result = predict(build(offload='cpu', chunk_size=2), random_images())
    assert result.pred_semantic.device.type == result.pred_reconstruction.points.device.type == 'cpu'
    assert result.pred_panoptic.shape == (VIEWS, *SIZE)


SIZES = [(16, 24), (12, 16), (16, 24), (24, 16)]
CANVAS = (24, 24)


def mixed_scene(**meta) -> tuple[torch.Tensor, SceneSample]:
    """Four views of three sizes on a canvas of 24x24; what is outside them is unknown."""
    generator = torch.Generator().manual_seed(2)
    images, sizes = images_on_canvas([torch.rand(3, *size, generator=generator) for size in SIZES])
    assert images.shape[-2:] == CANVAS and sizes == SIZES
    sample = made_up_sample(4, size=CANVAS, view_sizes=sizes, **meta)
    inside = torch.zeros(4, *CANVAS, dtype=torch.bool)
    for view, (height, width) in enumerate(SIZES):
        inside[view, :height, :width] = True
    labels, truth = sample.gt_panoptic, sample.gt_reconstruction
    sample.gt_panoptic = PanopticMap(labels.category.where(inside, -1), labels.instance.where(inside, 0))
    depth = truth.depth.where(inside, 0)
    sample.gt_reconstruction = Reconstruction.from_depth(depth, truth.intrinsics, truth.camera_to_world)
    return images[None], sample


def test_views_of_several_sizes_train_together_and_their_padding_gets_no_gradient():
    model = build().train()
    images, sample = mixed_scene(keyframes=[True, True, False, True])
    images.requires_grad_()
    output = model(images, [sample])
    assert output.geometry['update_views'].tolist() == [[0, 1, 3]]
    assert output.segmentation[-1].extents.tolist() == [[[h, w] for h, w in [SIZES[0], SIZES[1], SIZES[3], *SIZES]]]
    masks = output.segmentation[-1].masks
    masks.retain_grad()
    losses = model(images, [sample], mode='loss')
    total = sum(value for name, value in losses.items() if name.startswith('loss'))
    total.backward()
    assert total.isfinite()
    terms = model.joint_loss(output.geometry, output.segmentation, model._targets(output, [sample]))
    sum(value for name, value in terms.items() if name.startswith('loss')).backward()
    for view, (height, width) in enumerate(SIZES):
        assert images.grad[0, view, :, :height, :width].abs().max() > 0
        assert masks.grad[0, :, 3 + view, :height, :width].abs().max() > 0
        for grad in (images.grad[0, view], masks.grad[0, :, 3 + view]):
            assert grad[:, height:].abs().sum() == 0 and grad[:, :, width:].abs().sum() == 0


@pytest.mark.parametrize('chunk_size', [1, 3])
def test_views_of_several_sizes_are_predicted_each_in_its_own(chunk_size):
    images, sample = mixed_scene()
    expected = predict(build(chunk_size=4), images, sample)
    garbage = images.clone()
    for view, (height, width) in enumerate(SIZES):
        garbage[0, view, :, height:] = garbage[0, view, :, :, width:] = 0.5
    found = predict(build(chunk_size=chunk_size), garbage, sample)
    for view, (height, width) in enumerate(SIZES):
        valid = found.pred_reconstruction.valid[view]
        assert valid[:height, :width].all() and valid.sum() == height * width
        known = found.pred_panoptic.category[view] >= 0
        assert known[:height, :width].all() and known.sum() == height * width
        for one, other in (
            (found.pred_semantic[view], expected.pred_semantic[view]),
            (
                found.pred_reconstruction.points[view].movedim(-1, 0),
                expected.pred_reconstruction.points[view].movedim(-1, 0),
            ),
        ):
            torch.testing.assert_close(one[:, :height, :width], other[:, :height, :width], rtol=2e-3, atol=1e-3)


def test_equal_sizes_said_one_by_one_change_nothing():
    images = random_images()
    said = SceneSample(metainfo=dict(scene_id='a', label_space='scannet20', view_sizes=[SIZE] * VIEWS))
    assert torch.equal(predict(build(), images, said).pred_semantic, predict(build(), images).pred_semantic)


@pytest.mark.parametrize('sizes', [[(16, 24)], [(16, 28)] * VIEWS, [(0, 24)] * VIEWS])
def test_sizes_that_do_not_fit_are_refused(sizes):
    with pytest.raises(ValueError, match='`view_sizes` must be 5 sizes'):
        view_sizes_of([made_up_sample(view_sizes=sizes)], random_images())


def test_scenes_of_a_batch_have_the_same_sizes():
    samples = [made_up_sample(view_sizes=[SIZE] * VIEWS), made_up_sample(view_sizes=[(8, 8)] * VIEWS)]
    with pytest.raises(ValueError, match='scenes of one batch must have views of the same sizes'):
        view_sizes_of(samples, random_images(scenes=2))


def test_a_network_without_memory_is_refused():
    with pytest.raises(
        ValueError, match='OnlinePano3D needs an online network such as MUSt3RBackbone, got DUSt3RBackbone'
    ):
        build(
            backbone=dict(
                type='DUSt3RBackbone',
                encoder_dim=16,
                encoder_depth=1,
                encoder_heads=1,
                decoder_dim=24,
                decoder_depth=4,
                decoder_heads=1,
                dense_features=8,
                dense_hidden=8,
                dense_channels=(8, 8, 8, 8),
            )
        )


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r'`min_overlap` must be in \(0, 1\], got 0'):
        build(min_overlap=0)
    with pytest.raises(ValueError, match='`chunk_size` must be at least 1, got 0'):
        build(chunk_size=0)


def test_selected_and_anchored_queries_go_through_both_phases():
    """Anchors of the first phase go on in the second, in the frame of the same first camera."""
    model = build()
    head = dict(selection=dict(type='TokenSelection', dim=DIM), anchors=dict(type='AnchoredPositions', dim=DIM))
    decoder = dict(type='QueryDecoder', num_queries=6, dim=DIM, num_layers=2, num_heads=2, feedforward_dim=16)
    with DefaultScope.overwrite_default_scope('pano3d'):
        model.head.decoder = MODELS.build(decoder | head)
    losses = model.train()(random_images(), [made_up_sample(keyframes=flags(0, 3))], mode='loss')
    sum(value for name, value in losses.items() if name.startswith('loss')).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    model.chunk_size = 2
    found = predict(model, random_images())
    model.chunk_size = 8
    expected = predict(model, random_images())
    torch.testing.assert_close(found.pred_semantic, expected.pred_semantic, rtol=2e-3, atol=1e-3)
