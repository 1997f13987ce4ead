"""What must hold for VGGT at any size; tests/golden/test_vggt.py compares its numbers with the official network."""

import pytest
import torch

from pano3d.functional.geometry import pixel_grid, project, transform_points
from pano3d.functional.pose_encoding import decode_cameras
from pano3d.models import VGGTBackbone, VGGTCriterion
from pano3d.structures import Reconstruction

TINY = {
    'position_grid': 3,
    'embed_dim': 32,
    'encoder_depth': 1,
    'encoder_heads': 2,
    'decoder_depth': 3,
    'decoder_heads': 4,
    'camera_depth': 1,
    'camera_heads': 2,
    'dense_layers': (0, 1, 2, 2),
    'dense_channels': (8, 8, 12, 12),
    'dense_features': 16,
}
HEIGHT, WIDTH = 28, 42
CLOSE = {'rtol': 1e-4, 'atol': 1e-5}


def build(**changes) -> VGGTBackbone:
    torch.manual_seed(0)
    return VGGTBackbone(**(TINY | changes))


def random_images(*shape, seed=0):
    return torch.rand(*shape, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed))


def run(network, images):
    encoded = network.encode(images)
    return network.regress(encoded, network.decode(encoded), tuple(images.shape[-2:]))


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], **CLOSE, msg=lambda text, name=name: f'{name}: {text}')


def select(prediction, index):
    """Scenes and views of a prediction."""
    return {
        name: value[(slice(None), *index)] if name == 'pose_encodings' else value[index]
        for name, value in prediction.items()
    }


@torch.no_grad()
def test_shapes_of_every_stage():
    network = build()
    encoded = network.encode(random_images(2, 3))
    decoded = network.decode(encoded)
    assert (encoded.patches.shape, encoded.grid) == ((2, 3, 6, network.encoder_dim), (2, 3))
    assert (decoded.patches.shape, decoded.grid) == ((2, 3, 6, network.decoder_dim), (2, 3))
    prediction = network.regress(encoded, decoded, (HEIGHT, WIDTH))
    assert {name: tuple(value.shape) for name, value in prediction.items()} == {
        'pose_encodings': (4, 2, 3, 9),
        'depth': (2, 3, HEIGHT, WIDTH),
        'depth_confidence': (2, 3, HEIGHT, WIDTH),
        'points': (2, 3, HEIGHT, WIDTH, 3),
        'point_confidence': (2, 3, HEIGHT, WIDTH),
    }
    assert (prediction['depth'] > 0).all()
    assert (prediction['depth_confidence'] > 1).all()


@torch.no_grad()
def test_scenes_of_a_batch_do_not_see_each_other():
    network, images = build(), random_images(2, 3)
    together = run(network, images)
    for scene in range(2):
        assert_same(select(together, (slice(scene, scene + 1),)), run(network, images[scene : scene + 1]))


@torch.no_grad()
def test_only_the_first_view_has_a_special_place():
    """The others may come in any order; another first view is another result."""
    network, images = build(), random_images(1, 4)
    expected = run(network, images)
    order = [0, 3, 1, 2]
    assert_same(run(network, images[:, order]), select(expected, (slice(None), order)))
    order = [1, 0, 2, 3]
    other = run(network, images[:, order])
    assert (other['depth'] - select(expected, (slice(None), order))['depth']).abs().max() > 1e-5


@torch.no_grad()
def test_views_see_each_other_after_the_encoder_only():
    network, images = build(), random_images(1, 2)
    changed = torch.cat([images[:, :1], random_images(1, 1, seed=1)], dim=1)
    before, after = network.encode(images), network.encode(changed)
    torch.testing.assert_close(after.patches[:, 0], before.patches[:, 0])
    assert (network.decode(after).patches[:, 0] - network.decode(before).patches[:, 0]).abs().max() > 1e-5


@torch.no_grad()
def test_one_view_is_a_scene():
    prediction = run(build(), random_images(1, 1))
    assert prediction['depth'].shape == (1, 1, HEIGHT, WIDTH)
    assert all(torch.isfinite(value).all() for value in prediction.values())


@torch.no_grad()
def test_frames_beyond_one_chunk_come_out_as_alone():
    head = build().depth_head
    layers = list(torch.randn(4, 11, 6, 64))
    together = head(layers, (HEIGHT, WIDTH))
    alone = [head([layer[n : n + 1] for layer in layers], (HEIGHT, WIDTH)) for n in range(11)]
    torch.testing.assert_close(together, torch.cat(alone), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize('points_from', ['depth', 'point'])
def test_reconstruction_is_consistent(points_from):
    """Scene points are the local points moved by the pose; with depth they project onto their pixels."""
    network = build(points_from=points_from)
    network.camera_head.pose_branch.fc2.weight *= 10  # poses that differ from each other
    prediction = run(network, random_images(2, 3))
    found = network.reconstruct(prediction)
    assert found.points.shape == (2, 3, HEIGHT, WIDTH, 3)
    assert found.valid.all()
    cameras, _ = decode_cameras(prediction['pose_encodings'][-1], (HEIGHT, WIDTH))
    torch.testing.assert_close(found.camera_to_world, torch.linalg.inv(cameras), **CLOSE)
    moved = transform_points(found.camera_to_world[..., None, :, :], found.local_points)
    torch.testing.assert_close(found.points, moved, **CLOSE)
    centre = found.intrinsics[..., :2, 2]
    torch.testing.assert_close(centre, torch.tensor([WIDTH / 2, HEIGHT / 2]).expand_as(centre))
    if points_from == 'depth':
        torch.testing.assert_close(found.depth, prediction['depth'])
        torch.testing.assert_close(found.confidence, prediction['depth_confidence'])
        pixels = project(found.local_points.flatten(2, 3), found.intrinsics).unflatten(2, (HEIGHT, WIDTH))
        torch.testing.assert_close(pixels, pixel_grid(HEIGHT, WIDTH).expand_as(pixels), rtol=0, atol=1e-3)
    else:
        torch.testing.assert_close(found.points, prediction['points'])
        torch.testing.assert_close(found.confidence, prediction['point_confidence'])


@torch.no_grad()
def test_world_to_camera_becomes_camera_to_world():
    """A camera one unit to the right of the world's origin has t = (-1, 0, 0)."""
    network = build()
    encoding = torch.tensor([-1.0, 0, 0, 0, 0, 0, 1, 1, 1]).view(1, 1, 1, 9)
    depth = torch.ones(1, 1, HEIGHT, WIDTH)
    found = network.reconstruct({'pose_encodings': encoding, 'depth': depth, 'depth_confidence': depth})
    assert found.camera_to_world[0, 0, :3, 3].tolist() == [1, 0, 0]
    torch.testing.assert_close(found.points[0, 0, HEIGHT // 2, WIDTH // 2], torch.tensor([1.0, 0, 1]))


def test_no_gradient_flows_from_one_refinement_into_the_one_before():
    head = build().camera_head
    encodings = head(torch.randn(1, 2, 64))
    start = head.empty_pose_tokens
    first, last = (torch.autograd.grad(encodings[i].sum(), start, retain_graph=True)[0] for i in (0, -1))
    assert first.any()
    assert not last.any()


def test_untrained_network_starts_near_the_identity():
    cameras = run(build(), random_images(1, 2))['pose_encodings'][-1]
    expected = torch.tensor([0.0, 0, 0, 0, 0, 0, 1, 1, 1]).expand_as(cameras)
    torch.testing.assert_close(cameras, expected, rtol=0, atol=0.7)


def made_up_target():
    generator = torch.Generator().manual_seed(0)
    depth = 2 + torch.rand(1, 2, HEIGHT, WIDTH, generator=generator)
    intrinsics = torch.tensor([[40.0, 0, 21], [0, 40, 14], [0, 0, 1]]).expand(1, 2, 3, 3)
    poses = torch.eye(4).repeat(1, 2, 1, 1)
    poses[:, 1, 0, 3] = 0.5
    return Reconstruction.from_depth(depth, intrinsics, poses)


@pytest.mark.parametrize('heads', [('camera', 'depth'), ('camera', 'depth', 'point')])
def test_every_parameter_learns(heads):
    """With the heads that the loss reads no parameter stays without a gradient."""
    network = build(heads=heads)
    criterion = VGGTCriterion(point_weight=1.0 if 'point' in heads else 0.0)
    sum(criterion(run(network, random_images(1, 2)), made_up_target()).values()).backward()
    silent = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    zero = [name for name, parameter in network.named_parameters() if name not in silent and not parameter.grad.any()]
    assert not silent
    assert not zero


def test_training_from_scratch_lowers_every_term():
    network, images, target = build(heads=('camera', 'depth'), layer_scale=0.1), random_images(1, 2), made_up_target()
    criterion = VGGTCriterion()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    history = []
    for _ in range(25):
        terms = criterion(run(network, images), target)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        history.append({name: value.item() for name, value in terms.items()})
    assert history[-1]['camera'] < 0.5 * history[0]['camera']
    assert history[-1]['depth_regression'] < 0.7 * history[0]['depth_regression']
    assert history[-1]['depth_confidence'] < history[0]['depth_confidence']


def test_recomputed_activations_give_the_same_gradients():
    gradients = []
    for checkpoint_activations in (False, True):
        network = build(checkpoint_activations=checkpoint_activations)
        run(network, random_images(1, 2))['depth'].sum().backward()
        gradients.append({n: p.grad for n, p in network.named_parameters() if p.grad is not None})
    assert_same(gradients[1], gradients[0])


@pytest.mark.parametrize('checkpoint_activations', [False, True])
def test_blocks_run_again_only_when_their_activations_are_not_kept(checkpoint_activations):
    network = build(checkpoint_activations=checkpoint_activations)
    runs = []
    for block in (
        network.aggregator.patch_embed.blocks[0],
        network.aggregator.global_blocks[0],
        network.depth_head.norm,
    ):
        block.register_forward_pre_hook(lambda module, *_: runs.append(module))
    prediction = run(network, random_images(1, 2))
    before = len(runs)
    prediction['depth'].sum().backward()
    assert len(runs) == (2 * before if checkpoint_activations else before)


def test_tables_made_in_inference_mode_serve_training():
    network, images = build(), torch.rand(1, 2, 3, 42, 28)
    with torch.inference_mode():
        expected = run(network, images)['depth'].clone()
    found = run(network, images)['depth']
    found.sum().backward()
    torch.testing.assert_close(found.detach(), expected.detach())


@torch.no_grad()
def test_heads_stay_in_full_precision_under_autocast():
    network, images = build(), random_images(1, 2)
    expected = run(network, images)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = run(network, images)
    assert all(value.dtype == torch.float32 for value in found.values())
    torch.testing.assert_close(found['depth'], expected['depth'], rtol=0.05, atol=0.05)


@torch.no_grad()
def test_images_are_left_alone():
    images = random_images(1, 2)
    before = images.clone()
    run(build(), images)
    assert torch.equal(images, before)


def test_encoder_modules_are_what_makes_e():
    network = build()
    images = random_images(1, 2)
    with torch.no_grad():
        before = network.encode(images).patches
        for name, parameter in network.named_parameters():
            if not name.startswith(tuple(f'{module}.' for module in network.encoder_modules())):
                parameter.add_(1)
        assert torch.equal(network.encode(images).patches, before)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'heads': ('camera', 'depth', 'track')}, r"`heads` may hold .* got \['track'\]"),
        ({'heads': ('depth',)}, r"must contain \['camera'\]"),
        ({'heads': ('camera', 'point')}, r"must contain \['depth'\]"),
        ({'points_from': 'points'}, "must be 'depth' or 'point', got 'points'"),
        ({'dense_layers': (0, 1, 2, 3)}, r'4 indices below the decoder depth 3, got \(0, 1, 2, 3\)'),
        ({'dense_channels': (8, 8, 10, 12)}, 'multiples of 4'),
        ({'dense_features': 12}, 'multiple of 8'),
        ({'decoder_heads': 16}, r'multiple of 4 \* heads, got 32 and 16'),
    ],
)
def test_wrong_sizes_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes)


def test_images_off_the_patch_grid_are_refused():
    with pytest.raises(ValueError, match='multiples of the patch size 14, got 30x42'):
        build().encode(torch.rand(1, 1, 3, 30, 42))
