"""What must hold for Pi3 and Pi3X at any size; tests/golden/test_pi3.py compares numbers with the official networks."""

import pytest
import torch

from pano3d.functional.geometry import invert_rigid, transform_points, unproject
from pano3d.models import Pi3Backbone, Pi3Criterion, Pi3XBackbone
from pano3d.models.backbones.pi3_heads import CameraHead
from pano3d.structures import Reconstruction

TINY = {
    'position_grid': 3,
    'embed_dim': 32,
    'encoder_depth': 1,
    'encoder_heads': 2,
    'decoder_depth': 4,
    'decoder_heads': 4,
    'layer_scale': 0.5,
    'head_dim': 32,
    'head_depth': 1,
    'head_heads': 2,
    'dense_channels': 24,
    'camera_channels': 16,
}
TINY_X = TINY | {
    'stage_channels': (16, 16, 16),
    'residual_blocks': 1,
    'metric_dim': 16,
    'metric_depth': 1,
    'metric_heads': 2,
    'metric_channels': 16,
    'pose_layers': (1,),
}
NETWORKS = {'pi3': (Pi3Backbone, TINY), 'pi3x': (Pi3XBackbone, TINY_X)}
HEIGHT, WIDTH = 28, 42
CLOSE = {'rtol': 1e-4, 'atol': 1e-4}
both = pytest.mark.parametrize('name', NETWORKS)


def build(name='pi3', **changes):
    torch.manual_seed(0)
    network, sizes = NETWORKS[name]
    return network(**(sizes | changes))


def random_images(*shape, seed=0):
    return torch.rand(*shape, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed))


def run(network, images, **conditions):
    encoded = network.encode(images, **conditions)
    return network.regress(encoded, network.decode(encoded), tuple(images.shape[-2:]))


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], **CLOSE, msg=lambda text, name=name: f'{name}: {text}')


def rigid(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(*shape, 3, 3, generator=generator))
    matrix = torch.eye(4).repeat(*shape, 1, 1)
    matrix[..., :3, :3] = rotation * torch.det(rotation).sign()[..., None, None]
    matrix[..., :3, 3] = torch.randn(*shape, 3, generator=generator)
    return matrix


def made_up_target(views=2):
    y, x = torch.meshgrid(torch.linspace(0, 3, HEIGHT), torch.linspace(0, 3, WIDTH), indexing='ij')
    depth = (2 + 0.3 * torch.sin(x) + 0.2 * y).expand(1, views, -1, -1)
    intrinsics = torch.tensor([[40.0, 0, WIDTH / 2], [0, 40, HEIGHT / 2], [0, 0, 1]]).expand(1, views, 3, 3)
    return Reconstruction.from_depth(depth, intrinsics, rigid(1, views, seed=3))


@both
@torch.no_grad()
def test_shapes_of_every_stage(name):
    network = build(name)
    encoded = network.encode(random_images(2, 3))
    decoded = network.decode(encoded)
    assert (encoded.patches.shape, encoded.grid) == ((2, 3, 6, network.encoder_dim), (2, 3))
    assert (decoded.patches.shape, decoded.grid) == ((2, 3, 6, network.decoder_dim), (2, 3))
    assert torch.equal(decoded.layers[0][:, :, 5:], decoded.patches)
    expected = {
        'local_points': (2, 3, HEIGHT, WIDTH, 3),
        'confidence_logits': (2, 3, HEIGHT, WIDTH),
        'camera_to_world': (2, 3, 4, 4),
    }
    prediction = network.regress(encoded, decoded, (HEIGHT, WIDTH))
    scale = {'log_metric': (2,)} if name == 'pi3x' else {}
    assert {key: tuple(value.shape) for key, value in prediction.items()} == expected | scale
    assert (prediction['local_points'][..., 2] > 0).all()
    rotations = prediction['camera_to_world'][..., :3, :3]
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(2, 3))
    torch.testing.assert_close(rotations @ rotations.mT, torch.eye(3).expand(2, 3, 3, 3), rtol=0, atol=1e-5)


@both
@torch.no_grad()
def test_permuting_the_views_permutes_the_outputs(name):
    network, images = build(name), random_images(1, 4)
    order = [2, 0, 3, 1]
    found, expected = run(network, images[:, order]), run(network, images)
    assert_same(
        {k: v for k, v in found.items() if v.ndim > 1}, {k: v[:, order] for k, v in expected.items() if v.ndim > 1}
    )


@both
@torch.no_grad()
def test_scenes_of_a_batch_do_not_see_each_other(name):
    network, images = build(name), random_images(2, 3)
    together = run(network, images)
    for scene in range(2):
        alone = run(network, images[scene : scene + 1])
        assert_same({key: value[scene : scene + 1] for key, value in together.items()}, alone)


@both
@torch.no_grad()
def test_views_see_each_other_after_the_encoder_only(name):
    network, images = build(name), random_images(1, 2)
    changed = images.clone()
    changed[:, 1] = random_images(1, seed=5)
    encoded, other = network.encode(images), network.encode(changed)
    assert torch.equal(encoded.patches[:, 0], other.patches[:, 0])
    assert (network.decode(encoded).patches[:, 0] - network.decode(other).patches[:, 0]).abs().max() > 1e-3


@both
@torch.no_grad()
def test_one_view_is_a_scene(name):
    network = build(name)
    found = network.reconstruct(run(network, random_images(1, 1)))
    torch.testing.assert_close(found.camera_to_world[0, 0], torch.eye(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.points, found.local_points, **CLOSE)


@torch.no_grad()
def test_reconstruction_recovers_known_cameras():
    """Local points of pinhole cameras and poses in any world: focal lengths and poses from the first view come back."""
    focal = torch.tensor([[35.0, 50.0, 61.0]])
    depth = 1 + torch.rand(1, 3, HEIGHT, WIDTH)
    intrinsics = torch.zeros(1, 3, 3, 3)
    intrinsics[..., 0, 0] = intrinsics[..., 1, 1] = focal
    intrinsics[..., :, 2] = torch.tensor([WIDTH / 2, HEIGHT / 2, 1])
    poses, logits = rigid(1, 3), torch.randn(1, 3, HEIGHT, WIDTH)
    local_points = unproject(depth, intrinsics)
    found = build().reconstruct({'local_points': local_points, 'camera_to_world': poses, 'confidence_logits': logits})
    torch.testing.assert_close(found.intrinsics, intrinsics, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found.camera_to_world, invert_rigid(poses[:, :1]) @ poses, **CLOSE)
    world = transform_points(poses[..., None, :, :], local_points)
    torch.testing.assert_close(transform_points(poses[:, :1, None], found.points), world, **CLOSE)
    torch.testing.assert_close(found.confidence, 1 / (1 + (-logits).exp()))
    assert found.valid.all()


@torch.no_grad()
def test_points_beyond_range_are_not_valid():
    points = torch.ones(1, 1, HEIGHT, WIDTH, 3)
    points[0, 0, 3, 4] = float('inf')
    logits = torch.zeros(1, 1, HEIGHT, WIDTH)
    found = build().reconstruct({'local_points': points, 'camera_to_world': rigid(1, 1), 'confidence_logits': logits})
    assert (~found.valid).nonzero().tolist() == [[0, 0, 3, 4]]
    assert found.intrinsics.isfinite().all()


@torch.no_grad()
def test_camera_head_by_hand():
    """With identities for the last layers: the mean of the residual units, three of it and nine of it."""
    head = CameraHead(dim=12)
    for unit in head.res_conv:
        for layer in (unit.res_conv1, unit.res_conv2, unit.res_conv3):
            layer.weight.copy_(torch.eye(12))
            layer.bias.zero_()
    for layer in (head.more_mlps[0], head.more_mlps[2]):
        layer.weight.copy_(torch.eye(12))
        layer.bias.zero_()
    head.fc_t.weight.copy_(torch.eye(12)[:3])
    head.fc_t.bias.zero_()
    tokens = torch.rand(2, 5, 12)  # nothing negative, so that each unit doubles
    torch.testing.assert_close(head(tokens)[:, :3, 3], 4 * tokens.mean(1)[:, :3])


@both
def test_every_part_that_is_not_frozen_learns(name):
    network = build(name)
    sum(Pi3Criterion()(run(network, random_images(1, 2)), made_up_target()).values()).backward()
    frozen = ('conf_', 'metric_', 'depth_emb', 'depth_encoder', 'ray_embed', 'pose_inject_blk')
    for key, parameter in network.named_parameters():
        assert parameter.requires_grad != key.startswith(frozen), key
        assert (parameter.grad is not None) == parameter.requires_grad, key
        if parameter.grad is not None and key != 'camera_head.fc_t.bias':  # moves all cameras alike: the world is free
            assert parameter.grad.any(), key


@both
def test_confidence_learns_alone_in_its_stage(name):
    network = build(name, frozen=('decoder', 'point', 'camera', *(('metric', 'conditions') if name == 'pi3x' else ())))
    network.encoder.requires_grad_(False)
    criterion = Pi3Criterion(confidence_weight=0.05)
    sum(criterion(run(network, random_images(1, 2)), made_up_target()).values()).backward()
    for key, parameter in network.named_parameters():
        assert (parameter.grad is not None) == key.startswith('conf_'), key


def test_training_from_scratch_lowers_every_term():
    network, images, target = build(frozen=()), random_images(1, 2), made_up_target()
    criterion = Pi3Criterion(confidence_weight=0.05)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    history = []
    for _ in range(40):
        terms = criterion(run(network, images), target)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        history.append({name: value.item() for name, value in terms.items()})
    for name in ('point', 'translation', 'rotation'):
        assert history[-1][name] < 0.5 * history[0][name], name
    assert sum(history[-1].values()) < 0.5 * sum(history[0].values())


@both
def test_recomputed_activations_give_the_same_gradients(name):
    gradients, runs = [], []
    for checkpoint_activations in (False, True):
        network = build(name, checkpoint_activations=checkpoint_activations)
        runs.append(0)

        def count(*_):
            runs[-1] += 1

        for block in (network.encoder.blocks[0], network.decoder[1], network.point_decoder.blocks[0]):
            block.register_forward_pre_hook(count)
        prediction = run(network, random_images(1, 2))
        (prediction['local_points'].sum() + prediction['camera_to_world'].sum()).backward()
        gradients.append({n: p.grad for n, p in network.named_parameters() if p.grad is not None})
    assert_same(gradients[1], gradients[0])
    assert runs == [3, 6]


@both
def test_tables_made_in_inference_mode_serve_training(name):
    network, images = build(name), torch.rand(1, 2, 3, 42, 28)
    with torch.inference_mode():
        expected = run(network, images)['local_points'].clone()
    found = run(network, images)['local_points']
    found.sum().backward()
    torch.testing.assert_close(found.detach(), expected.detach())


@both
@torch.no_grad()
def test_heads_stay_in_full_precision_under_autocast(name):
    network, images = build(name), random_images(1, 2)
    expected = run(network, images)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = run(network, images)
    assert all(value.dtype == torch.float32 for value in found.values())
    torch.testing.assert_close(found['local_points'], expected['local_points'], rtol=0.1, atol=0.1)


@both
@torch.no_grad()
def test_images_are_left_alone(name):
    images = random_images(1, 2)
    before = images.clone()
    run(build(name), images)
    assert torch.equal(images, before)


@both
def test_encoder_modules_are_what_makes_e(name):
    network, images = build(name), random_images(1, 2)
    with torch.no_grad():
        before = network.encode(images).patches
        for key, parameter in network.named_parameters():
            if not key.startswith(tuple(f'{module}.' for module in network.encoder_modules())):
                parameter.add_(1)
        assert torch.equal(network.encode(images).patches, before)
        for module in network.encoder_modules():
            for parameter in network.get_submodule(module).parameters():
                parameter.add_(torch.randn_like(parameter))
        assert not torch.equal(network.encode(images).patches, before)


@both
@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'frozen': ('depth',)}, r"`frozen` may name \[.*'point'.*\], got \['depth'\]"),
        ({'decoder_depth': 3}, '`decoder_depth` must be even.* got 3'),
        ({'decoder_heads': 16}, r'decoder need channels .* multiple of 4 \* heads, got 32 and 16'),
        ({'head_heads': 16}, r'heads need channels .* multiple of 4 \* heads, got 32 and 16'),
    ],
)
def test_wrong_sizes_are_refused_by_name(name, changes, message):
    with pytest.raises(ValueError, match=message):
        build(name, **changes)


@both
def test_images_that_do_not_fit_are_refused(name):
    network = build(name)
    with pytest.raises(ValueError, match='multiples of the patch size 14, got 30x42'):
        network.encode(torch.rand(1, 1, 3, 30, 42))
    broken = random_images(1, 2)
    broken[0, 1, 0, 3, 3] = float('nan')
    with pytest.raises(ValueError, match='view 1 of scene 0 has NaN'):
        network.encode(broken)
    with pytest.raises(TypeError, match='one tensor'):
        network.encode([torch.rand(3, 28, 28), torch.rand(3, 28, 42)])


def test_another_size_than_that_of_the_tokens_is_refused():
    network = build()
    encoded = network.encode(random_images(1, 1))
    with pytest.raises(ValueError, match=r'must be \(28, 42\) beside tokens on a grid \(2, 3\), got \(42, 28\)'):
        network.regress(encoded, network.decode(encoded), (42, 28))
