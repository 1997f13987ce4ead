"""What must hold for DUSt3R at any size; tests/golden/test_dust3r.py compares its numbers with the official network."""

import pytest
import torch
import torch.nn.functional as F

from pano3d.functional.geometry import transform_points
from pano3d.functional.registration import register_points
from pano3d.models import DUSt3RBackbone, DUSt3RCriterion, MASt3RBackbone
from pano3d.models.backbones import Tokens
from pano3d.models.criteria.dust3r_criterion import pair_targets
from pano3d.models.layers import PyramidFusion
from pano3d.structures import Reconstruction

TINY = {
    'encoder_dim': 32,
    'encoder_depth': 1,
    'encoder_heads': 2,
    'decoder_dim': 24,
    'decoder_depth': 2,
    'decoder_heads': 2,
    'dense_features': 8,
    'dense_hidden': 6,
    'dense_channels': (4, 6, 8, 10),
}
SIZE = (32, 48)
CLOSE = {'rtol': 1e-4, 'atol': 1e-5}


def build(kind=DUSt3RBackbone, **changes):
    torch.manual_seed(0)
    return kind(**(TINY | changes))


def random_images(*shape, size=SIZE, seed=0):
    return torch.rand(*shape, 3, *size, generator=torch.Generator().manual_seed(seed))


def run(network, images):
    encoded = network.encode(images)
    return network.regress(encoded, network.decode(encoded), tuple(images.shape[-2:]))


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], **CLOSE, msg=lambda text, name=name: f'{name}: {text}')


def rigid(count, seed=0):
    """Random rotations of some 20 degrees and translations, (count, 4, 4)."""
    generator = torch.Generator().manual_seed(seed)
    axis = 0.3 * torch.randn(count, 3, generator=generator)
    skew = torch.zeros(count, 3, 3)
    skew[:, 0, 1], skew[:, 0, 2], skew[:, 1, 2] = axis.unbind(-1)
    matrix = torch.eye(4).repeat(count, 1, 1)
    matrix[:, :3, :3] = torch.linalg.matrix_exp(skew - skew.transpose(1, 2))
    matrix[:, :3, 3] = torch.randn(count, 3, generator=generator)
    return matrix


def made_up_scene(batch=2, views=4, focal=40.0):
    """Bumpy surfaces before cameras of one focal length, in the frame of the first."""
    depth = 2 + torch.rand(batch, views, *SIZE, generator=torch.Generator().manual_seed(3))
    intrinsics = torch.tensor([[focal, 0, SIZE[1] / 2], [0, focal, SIZE[0] / 2], [0, 0, 1]])
    poses = rigid(batch * views).view(batch, views, 4, 4)
    poses[:, 0] = torch.eye(4)
    return Reconstruction.from_depth(depth, intrinsics.expand(batch, views, 3, 3), poses)


def perfect_prediction(scene, seed=0):
    """Ground truth in units that differ from pair to pair; pair 1 is the surest. Also the units (B, P)."""
    points, _ = pair_targets(scene)
    generator = torch.Generator().manual_seed(seed)
    units = 0.5 + torch.rand(*points.shape[:2], generator=generator)
    confidence = 1.5 + torch.rand(points.shape[:-1], generator=generator)
    confidence[:, 1, 0] += 1
    return {'pair_points': points * units[..., None, None, None, None], 'pair_confidence': confidence}, units


@torch.no_grad()
@pytest.mark.parametrize('head', ['dpt', 'linear'])
def test_shapes_of_every_stage(head):
    network = build(head=head)
    encoded = network.encode(random_images(2, 3))
    decoded = network.decode(encoded)
    assert (encoded.patches.shape, encoded.grid) == ((2, 3, 6, network.encoder_dim), (2, 3))
    assert (decoded.patches.shape, decoded.grid) == ((2, 3, 6, network.decoder_dim), (2, 3))
    prediction = network.regress(encoded, decoded, SIZE)
    assert {name: tuple(value.shape) for name, value in prediction.items()} == {
        'pair_points': (2, 4, 2, *SIZE, 3),
        'pair_confidence': (2, 4, 2, *SIZE),
    }
    assert (prediction['pair_confidence'] > 1).all()


@torch.no_grad()
@pytest.mark.parametrize('head', ['dpt', 'linear'])
def test_scenes_of_three_views_are_pairs_run_alone(head):
    network, images = build(head=head), random_images(2, 3)
    encoded = network.encode(images)
    decoded = network.decode(encoded)
    together = network.regress(encoded, decoded, SIZE)
    references = []
    for pair, (first, second) in enumerate([(0, 1), (0, 2), (1, 0), (2, 0)]):
        alone_encoded = network.encode(images[:, [first, second]])
        alone_decoded = network.decode(alone_encoded)
        alone = network.regress(alone_encoded, alone_decoded, SIZE)
        assert_same({n: v[:, pair] for n, v in together.items()}, {n: v[:, 0] for n, v in alone.items()})
        if first == 0:
            torch.testing.assert_close(decoded.patches[:, second], alone_decoded.patches[:, 1], **CLOSE)
            references.append(alone_decoded.patches[:, 0])
    torch.testing.assert_close(decoded.patches[:, 0], torch.stack(references).mean(0), **CLOSE)


@torch.no_grad()
def test_other_views_may_come_in_any_order():
    network, images = build(), random_images(1, 4)
    encoded = network.encode(images)
    expected = network.decode(encoded).patches
    order = [0, 3, 1, 2]
    reordered = network.encode(images[:, order])
    found = network.decode(reordered)
    torch.testing.assert_close(found.patches, expected[:, order], **CLOSE)
    pairs = [2, 0, 1, 5, 3, 4]
    before = run(network, images)
    after = network.regress(reordered, found, SIZE)
    assert_same(after, {name: value[:, pairs] for name, value in before.items()})
    here, there = network.reconstruct(before), network.reconstruct(after)
    for name in ('points', 'local_points', 'confidence', 'camera_to_world', 'intrinsics'):
        torch.testing.assert_close(getattr(there, name), getattr(here, name)[:, order], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_another_first_view_is_another_scene():
    network, images = build(), random_images(1, 3)
    mirrored = network.decode(network.encode(images[:, [1, 0, 2]])).patches
    assert (mirrored[:, [1, 0, 2]] - network.decode(network.encode(images)).patches).abs().max() > 1e-3


@torch.no_grad()
def test_images_of_a_pair_may_have_different_sizes():
    network = build()
    sides = [random_images(1, 1, size=(48, 32)), random_images(1, 1, size=(32, 64), seed=1)]
    encoded = [network.encode(images) for images in sides]
    decoded = network.decode_pairs(*encoded)
    assert [side.grid for side in decoded] == [(3, 2), (2, 4)]
    shapes = [tuple(points.shape) for points, _ in network.regress_pairs(encoded, decoded)]
    assert shapes == [(1, 1, 48, 32, 3), (1, 1, 32, 64, 3)]


@torch.no_grad()
def test_decoders_read_the_states_before_each_layer():
    """The order of the two decoders must not matter: swapping images and decoders mirrors the pair."""
    network, swapped = build(), build()
    swapped.dec_blocks, swapped.dec_blocks2 = swapped.dec_blocks2, swapped.dec_blocks
    first, second = (network.encode(random_images(1, 1, seed=seed)) for seed in range(2))
    expected = network.decode_pairs(first, second)
    found = swapped.decode_pairs(second, first)
    for ours, theirs in zip(found, reversed(expected), strict=True):
        torch.testing.assert_close(ours.patches, theirs.patches, **CLOSE)


@torch.no_grad()
def test_cameras_of_a_perfect_prediction_are_recovered():
    scene = made_up_scene()
    prediction, units = perfect_prediction(scene)
    found = build().reconstruct(prediction)
    unit = units[:, 1].view(2, 1, 1)  # the surest pair's
    poses = scene.camera_to_world.clone()
    poses[..., :3, 3] *= unit
    torch.testing.assert_close(found.camera_to_world, poses, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.intrinsics, scene.intrinsics, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found.points, scene.points * unit[..., None, None], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.local_points, scene.local_points * unit[..., None, None], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.confidence[:, 1:], prediction['pair_confidence'][:, :3, 1])
    torch.testing.assert_close(found.confidence[:, 0], prediction['pair_confidence'][:, :3, 0].mean(1))
    assert found.valid.all()


@torch.no_grad()
def test_one_wrong_map_of_the_reference_hurts_neither_scale_nor_the_other_pairs():
    scene = made_up_scene(views=3)
    prediction, units = perfect_prediction(scene)
    prediction['pair_points'][:, 0, 0, : SIZE[0] // 3] *= 20  # a third of the pixels in the less sure pair
    found = build().reconstruct(prediction)
    unit = units[:, 1].view(2, 1, 1, 1, 1)
    torch.testing.assert_close(found.points[:, 1:], scene.points[:, 1:] * unit, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_points_that_are_not_finite_are_invalid_and_disturb_nothing_else():
    scene = made_up_scene()
    prediction, units = perfect_prediction(scene)
    prediction['pair_points'][:, 0, 1, 3, 4] = torch.nan  # view 1
    prediction['pair_points'][:, 4, 0, 5, 6] = torch.inf  # view 2 in its own camera
    found = build().reconstruct(prediction)
    expected = torch.ones_like(found.valid)
    expected[:, 1, 3, 4] = expected[:, 2, 5, 6] = False
    assert torch.equal(found.valid, expected)
    poses = scene.camera_to_world.clone()
    poses[..., :3, 3] *= units[:, 1].view(2, 1, 1)
    torch.testing.assert_close(found.camera_to_world, poses, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_cameras_of_a_noisy_prediction_are_the_best_similarity():
    scene = made_up_scene(views=2)
    points, _ = pair_targets(scene)
    noise = 0.05 * torch.randn(points.shape, generator=torch.Generator().manual_seed(1))
    prediction = {'pair_points': points + noise, 'pair_confidence': torch.full(points.shape[:-1], 3.0)}
    found = build().reconstruct(prediction)
    moved = transform_points(found.camera_to_world[..., None, :, :], found.local_points)
    residual = (moved - found.points)[:, 1].square().mean()
    ours = prediction['pair_points'][:, 1, 0].flatten(1, 2), prediction['pair_points'][:, 0, 1].flatten(1, 2)
    transform, _ = register_points(*ours, torch.ones(ours[0].shape[:2]), with_scale=True)
    best = (transform_points(transform, ours[0]) - ours[1]).square().mean()
    torch.testing.assert_close(residual, best, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found.camera_to_world, scene.camera_to_world, rtol=0, atol=0.05)


@torch.no_grad()
def test_images_beyond_one_chunk_come_out_as_alone():
    head = build().downstream_head1['dpt']
    layers = [torch.randn(11, 6, 32), *torch.randn(3, 11, 6, 24)]
    together = head(layers, (2, 3))
    alone = [head([layer[n : n + 1] for layer in layers], (2, 3)) for n in range(11)]
    torch.testing.assert_close(together, torch.cat(alone), **CLOSE)


@torch.no_grad()
def test_odd_levels_are_doubled_and_cut():
    fusion = PyramidFusion(channels=(2, 2, 2, 2), features=4, rectified_skip=False, crop=True)
    levels = [torch.randn(1, 2, *size) for size in ((20, 28), (10, 14), (5, 7), (3, 4))]
    lowest = fusion.layer4_rn(levels[3])
    doubled = F.interpolate(fusion.refinenet4.resConfUnit2(lowest), scale_factor=2, mode='bilinear', align_corners=True)
    seen = []
    fusion.refinenet3.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    assert fusion(levels).shape == (1, 4, 40, 56)
    torch.testing.assert_close(seen[0], fusion.refinenet4.out_conv(doubled)[..., :5, :7])


@pytest.mark.parametrize('head', ['dpt', 'linear'])
def test_every_parameter_learns(head):
    """Also in data-parallel training, where a parameter without a gradient is an error."""
    network = build(head=head)
    scene = made_up_scene(batch=1, views=3)
    sum(DUSt3RCriterion()(run(network, random_images(1, 3)), scene).values()).backward()
    silent = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    zero = [name for name, parameter in network.named_parameters() if name not in silent and not parameter.grad.any()]
    assert not silent
    assert not zero


def test_training_from_scratch_lowers_the_loss():
    network, images, scene = build(), random_images(1, 2), made_up_scene(batch=1, views=2)
    criterion = DUSt3RCriterion()
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    history = []
    for _ in range(8):
        loss = sum(criterion(run(network, images), scene).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.6 * history[0]


def test_recomputed_activations_give_the_same_gradients():
    gradients, images = [], random_images(1, 3)
    for checkpoint_activations in (False, True):
        network = build(checkpoint_activations=checkpoint_activations)
        run(network, images)['pair_points'].sum().backward()
        gradients.append({n: p.grad for n, p in network.named_parameters() if p.grad is not None})
    assert_same(gradients[1], gradients[0])


@pytest.mark.parametrize('checkpoint_activations', [False, True])
def test_blocks_run_again_only_when_their_activations_are_not_kept(checkpoint_activations):
    network = build(checkpoint_activations=checkpoint_activations)
    runs = []
    for block in (network.encoder.blocks[0], network.dec_blocks2[1], network.downstream_head1['dpt'].scratch):
        block.register_forward_pre_hook(lambda module, *_: runs.append(module))
    prediction = run(network, random_images(1, 2))
    before = len(runs)
    prediction['pair_points'].sum().backward()
    assert len(runs) == (2 * before if checkpoint_activations else before)


@torch.no_grad()
def test_each_image_is_encoded_once():
    network = build()
    counts = []
    network.encoder.register_forward_pre_hook(lambda _, arguments: counts.append(len(arguments[0])))
    run(network, random_images(2, 4))
    assert counts == [8]


@torch.no_grad()
def test_heads_stay_in_full_precision_under_autocast():
    network, images = build(), random_images(1, 2)
    expected = run(network, images)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = run(network, images)
    assert all(value.dtype == torch.float32 for value in found.values())
    torch.testing.assert_close(found['pair_points'], expected['pair_points'], rtol=0.05, atol=0.05)


@torch.no_grad()
def test_images_are_left_alone():
    images = random_images(1, 2)
    before = images.clone()
    run(build(), images)
    assert torch.equal(images, before)


@torch.no_grad()
def test_descriptors_have_unit_length_and_know_their_pair():
    network, images = build(MASt3RBackbone), random_images(1, 3)
    encoded = network.encode(images)
    found = network.describe(encoded, network.decode(encoded))
    assert found['pair_descriptors'].shape == (1, 4, 2, *SIZE, 24)
    lengths = found['pair_descriptors'].norm(dim=-1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))
    assert (found['pair_descriptor_confidence'] > 0).all()
    alone = network.encode(images[:, [2, 0]])
    expected = network.describe(alone, network.decode(alone))
    assert_same({n: v[:, 3] for n, v in found.items()}, {n: v[:, 0] for n, v in expected.items()})


@torch.no_grad()
def test_descriptors_lie_on_their_pixels():
    """Feature (c * 16 + row) * 16 + column of a token is channel c of that pixel; the last one is the confidence."""
    head = build(MASt3RBackbone).downstream_head1['head_local_features']
    head.fc1.weight.zero_()
    features = torch.rand(25, 16, 16)
    head.fc1.bias.zero_()
    head.fc2.bias.copy_(features.flatten())
    descriptors, confidence = head(torch.rand(1, 6, 32), torch.rand(1, 6, 24), (2, 3))
    expected = F.normalize(features[:24], dim=0)
    torch.testing.assert_close(descriptors[0, 16:, 32:], expected.permute(1, 2, 0))
    torch.testing.assert_close(confidence[0, :16, 16:32], features[24].exp())


def test_mast3r_regresses_as_dust3r_and_trains_without_its_descriptors():
    network, other = build(MASt3RBackbone), build()
    other.load_state_dict(network.state_dict(), strict=False)
    images = random_images(1, 2)
    assert_same(run(network, images), run(other, images))
    sum(DUSt3RCriterion()(run(network, images), made_up_scene(batch=1, views=2)).values()).backward()
    assert not [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize(
    ('images', 'message'),
    [
        (random_images(1, 1), 'two views or more per scene, got 1'),
        (random_images(1, 2, size=(32, 40)), 'multiples of the patch size 16, got 32x40'),
        (random_images(1, 2)[0], r'must have shape \(B, V, 3, H, W\)'),
        (random_images(1, 2) * 255, r'must be RGB in \[0, 1\]'),
        (random_images(1, 2).index_fill(1, torch.tensor(1), torch.nan), 'view 1 of scene 0 has NaN'),
    ],
)
def test_bad_images_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        run(build(), images)


def test_views_of_different_sizes_are_refused_as_one_scene():
    with pytest.raises(TypeError, match='several sizes'):
        build().encode([random_images(1, 1), random_images(1, 1, size=(48, 32))])


@pytest.mark.parametrize(
    ('kind', 'changes', 'message'),
    [
        (DUSt3RBackbone, {'head': 'other'}, "'dpt' or 'linear', got 'other'"),
        (DUSt3RBackbone, {'patch_size': 14}, 'needs patches of 16 pixels, got 14'),
        (DUSt3RBackbone, {'dense_channels': (4, 4, 4)}, r'needs 4 `dense_channels`.*got \(4, 4, 4\)'),
        (DUSt3RBackbone, {'decoder_depth': 1}, '`decoder_depth` of 2 or more'),
        (DUSt3RBackbone, {'decoder_heads': 5}, '5 heads do not divide 24'),
        (MASt3RBackbone, {'head': 'linear'}, "must be 'dpt', got 'linear'"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(kind, changes, message):
    with pytest.raises(ValueError, match=message):
        build(kind, **changes)


@torch.no_grad()
def test_tokens_know_what_the_heads_read():
    network = build(decoder_depth=4)
    assert network.read_layers == (2, 3, 4)
    encoded = network.encode(random_images(1, 3))
    decoded = network.decode(encoded)
    assert isinstance(decoded, Tokens)
    assert [tuple(layer.shape) for layer in decoded.layers] == [(1, 4, 6, 24)] * 6
