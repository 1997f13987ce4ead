"""What must hold for MUSt3R at any size; tests/golden/test_must3r.py compares its numbers with the official network."""

import pytest
import torch

from pano3d.functional.focal import pinhole_intrinsics
from pano3d.functional.geometry import transform_points, unproject
from pano3d.models import MUSt3RBackbone, MUSt3RCriterion
from pano3d.models.backbones import Tokens
from pano3d.models.layers import frame_rotary_table
from pano3d.structures import Reconstruction

TINY = {
    'patch_size': 4,
    'encoder_dim': 16,
    'encoder_depth': 1,
    'encoder_heads': 2,
    'decoder_dim': 24,
    'decoder_depth': 3,
    'decoder_heads': 3,
}
HEIGHT, WIDTH = 8, 12
CLOSE = {'rtol': 1e-4, 'atol': 1e-5}


def build(*, training=False, **changes) -> MUSt3RBackbone:
    torch.manual_seed(0)
    return MUSt3RBackbone(**(TINY | changes)).train(training)


def random_images(*shape, seed=0, size=(HEIGHT, WIDTH)):
    return torch.rand(*shape, 3, *size, generator=torch.Generator().manual_seed(seed))


def run(network, images):
    encoded = network.encode(images)
    return network.regress(encoded, network.decode(encoded), tuple(images.shape[-2:]))


def views_of(encoded, *views):
    return Tokens(encoded.patches[:, views], encoded.grid)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], **CLOSE, msg=lambda text, name=name: f'{name}: {text}')


@torch.no_grad()
def test_shapes_of_every_stage():
    network = build()
    encoded = network.encode(random_images(2, 3))
    decoded = network.decode(encoded)
    assert (encoded.patches.shape, encoded.grid) == ((2, 3, 6, network.encoder_dim), (2, 3))
    assert (decoded.patches.shape, decoded.grid, decoded.layers) == ((2, 3, 6, network.decoder_dim), (2, 3), ())
    prediction = network.regress(encoded, decoded, (HEIGHT, WIDTH))
    assert {name: tuple(value.shape) for name, value in prediction.items()} == {
        'points': (2, 3, HEIGHT, WIDTH, 3),
        'local_points': (2, 3, HEIGHT, WIDTH, 3),
        'confidence': (2, 3, HEIGHT, WIDTH),
    }
    assert (prediction['confidence'] > 1).all()


@torch.no_grad()
def test_training_gives_both_passes():
    network = build(training=True, training_keyframes=2)
    prediction = run(network, random_images(2, 3))
    assert prediction['update_points'].shape == (2, 2, HEIGHT, WIDTH, 3)
    assert prediction['update_local_points'].shape == (2, 2, HEIGHT, WIDTH, 3)
    assert prediction['update_confidence'].shape == (2, 2, HEIGHT, WIDTH)
    assert prediction['update_views'][0] == 0


@torch.no_grad()
def test_decode_is_updates_and_a_rendering():
    """Five views, three keyframes: 0 and 2 together, then 4."""
    network = build(max_keyframes=3)
    encoded = network.encode(random_images(1, 5))
    memory, _ = network.update(None, views_of(encoded, 0, 2))
    memory, _ = network.update(memory, views_of(encoded, 4))
    expected = network.render(memory, encoded).patches
    torch.testing.assert_close(network.decode(encoded).patches, expected)
    memory, _ = network.update(None, views_of(encoded, 0, 2, 4))
    together = network.render(memory, encoded).patches
    assert (together - expected).abs().max() > 1e-4
    network.update_batches = (3,)
    torch.testing.assert_close(network.decode(encoded).patches, together)


@torch.no_grad()
def test_training_is_a_causal_update_and_a_rendering():
    network = build(training=True, training_keyframes=3)
    encoded = network.encode(random_images(1, 4))
    torch.manual_seed(1)
    decoded = network.decode(encoded)
    views = decoded.layers[1].tolist()
    assert len(set(views)) == 3
    memory, (passed,) = network.update(None, views_of(encoded, *views), causal=True)
    torch.testing.assert_close(decoded.layers[0], passed.patches)
    torch.testing.assert_close(decoded.patches, network.render(memory, encoded).patches)


def test_training_keyframes_are_drawn_anew_and_reproducibly():
    network = build(training=True)

    def draw():
        torch.manual_seed(3)
        return [network.choose_keyframes(5) for _ in range(200)]

    drawn = draw()
    assert drawn == draw()
    assert {len(views) for views in drawn} == {2, 3, 4, 5}
    assert all(views[0] == 0 and len(set(views)) == len(views) and max(views) < 5 for views in drawn)
    assert {view for views in drawn for view in views} == set(range(5))
    assert network.choose_keyframes(1) == [0]
    assert sorted(network.choose_keyframes(2)) == [0, 1]
    network.training_keyframes = 9
    assert sorted(network.choose_keyframes(5)) == list(range(5))


@torch.no_grad()
@pytest.mark.parametrize('training', [False, True])
def test_one_view_is_a_scene(training):
    network = build(training=training)
    prediction = run(network, random_images(1, 1))
    assert prediction['points'].shape == (1, 1, HEIGHT, WIDTH, 3)
    assert all(torch.isfinite(value).all() for value in prediction.values())
    assert torch.isfinite(network.reconstruct(prediction).camera_to_world).all()


@torch.no_grad()
def test_scenes_of_a_batch_do_not_see_each_other():
    network, images = build(), random_images(2, 3)
    together = run(network, images)
    for scene in range(2):
        alone = run(network, images[scene : scene + 1])
        assert_same({name: value[scene : scene + 1] for name, value in together.items()}, alone)


@torch.no_grad()
def test_rendered_views_do_not_see_each_other():
    network = build()
    encoded = network.encode(random_images(2, 5))
    memory, _ = network.update(None, views_of(encoded, 0, 1))
    together = network.render(memory, encoded).patches
    for view in range(5):
        alone = network.render(memory, views_of(encoded, view)).patches
        torch.testing.assert_close(alone, together[:, [view]], **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize('causal', [False, True])
def test_views_of_an_update_see_what_they_should(causal):
    """Change one view of a call; see which others notice. The plain call: all others; causal: those behind it."""
    network = build(decoder_depth=1)
    encoded = network.encode(random_images(1, 5))
    memory, _ = network.update(None, views_of(encoded, 4))

    def outputs(memory, patches):
        return network.update(memory, Tokens(patches, encoded.grid), causal=causal)[1][0].patches[0]

    for start in (memory, None):
        patches = encoded.patches[:, :4]
        before = outputs(start, patches)
        for changed in range(4):
            other = patches.clone()
            other[:, changed] += 1
            noticed = (outputs(start, other) - before).abs().amax((1, 2)) > 1e-4
            expected = torch.tensor([not causal or view >= changed for view in range(4)])
            if start is None and changed == 1:
                expected[0] = True  # the very first view has nothing else to see
            assert noticed.tolist() == expected.tolist(), (start is None, changed)


def attend_by_hand(network, states, contexts):
    """The only block of a decoder of depth 1, view by view, each with its own context of states."""
    (block,) = network.decoder.blocks_dec
    rope = frame_rotary_table((2, 3), 0, network.decoder.head_dim, 100.0, states[0].device)
    found = []
    for state, context in zip(states, contexts, strict=True):
        x = state + block.attn(block.norm1(state), rope)
        x = x + block.cross_attn(block.norm2(x), *block.project_context(torch.cat(context, dim=1)))
        found.append(network.decoder.norm_dec(x + block.mlp(block.norm3(x))))
    return torch.stack(found, dim=1)


@torch.no_grad()
def test_an_update_equals_views_taken_one_by_one():
    """No mask and no batching of views: the same from the modules, one view at a time."""
    network = build(decoder_depth=1)
    encoded = network.encode(random_images(1, 4))
    decoder = network.decoder
    states = [decoder.feat_embed_enc_to_dec(encoded.patches[:, view]) for view in range(4)]
    marked = [state + decoder.image2_embed for state in states]
    first = [states[0], marked[1]]
    memory, (found,) = network.update(None, views_of(encoded, 0, 1))
    torch.testing.assert_close(found.patches, attend_by_hand(network, first, [[first[1]], [first[0]]]), **CLOSE)
    memory, (found,) = network.update(memory, views_of(encoded, 2, 3))
    contexts = [[*first, marked[3]], [*first, marked[2]]]
    torch.testing.assert_close(found.patches, attend_by_hand(network, marked[2:], contexts), **CLOSE)
    found = network.render(memory, views_of(encoded, 0)).patches
    contexts = [[*first, *marked[2:]]]
    torch.testing.assert_close(found, attend_by_hand(network, marked[:1], contexts), **CLOSE)


@torch.no_grad()
def test_stacks_of_several_sizes_are_one_call():
    """Views split over stacks of one size give what one stack gives; one of another size joins them."""
    network = build()
    encoded = network.encode(random_images(1, 3))
    expected, (together,) = network.update(None, encoded)
    found, parts = network.update(None, [views_of(encoded, 0), views_of(encoded, 1, 2)])
    torch.testing.assert_close(torch.cat([part.patches for part in parts], dim=1), together.patches, **CLOSE)
    assert torch.equal(found.labels, expected.labels)
    torch.testing.assert_close(found.layers, expected.layers, **CLOSE)
    upright = network.encode(random_images(1, 1, size=(WIDTH, 2 * HEIGHT)))
    mixed, parts = network.update(None, [encoded, upright])
    assert [part.patches.shape[1:3] for part in parts] == [(3, 6), (1, 12)]
    assert mixed.labels.tolist() == [[0] * 6 + [1] * 6 + [2] * 6 + [3] * 12]
    assert network.render(mixed, upright).patches.shape == (1, 1, 12, network.decoder_dim)


@torch.no_grad()
def test_memory_is_a_value():
    network = build()
    encoded = network.encode(random_images(2, 4))
    memory, _ = network.update(None, views_of(encoded, 0, 1))
    before = [layer.clone() for layer in memory.layers]
    longer, _ = network.update(memory, views_of(encoded, 2, 3))
    network.refine(memory, [views_of(encoded, 0, 1)])
    network.render(memory, encoded)
    assert all(torch.equal(layer, old) for layer, old in zip(memory.layers, before, strict=True))
    assert (memory.num_images, memory.num_tokens, memory.batch_size) == (2, 12, 2)
    assert (longer.num_images, longer.num_tokens) == (4, 24)
    assert all(torch.equal(layer[:, :12], old) for layer, old in zip(longer.layers, before, strict=True))
    assert longer.to('cpu').num_images == 4


@torch.no_grad()
def test_memory_modes_give_the_same_and_differ_in_size():
    results = {}
    for mode in ('kv', 'norm_y', 'raw'):
        network = build(memory_mode=mode)
        encoded = network.encode(random_images(1, 3))
        memory, _ = network.update(None, views_of(encoded, 0, 1))
        memory, _ = network.update(memory, views_of(encoded, 2))
        results[mode] = network.render(memory, encoded).patches
        assert memory.layers[0].shape[-1] == network.decoder_dim * (2 if mode == 'kv' else 1)
    torch.testing.assert_close(results['norm_y'], results['kv'], **CLOSE)
    torch.testing.assert_close(results['raw'], results['kv'], **CLOSE)


@torch.no_grad()
def test_refinement_replaces_all_but_the_reference():
    network = build()
    encoded = network.encode(random_images(1, 3))
    memory, _ = network.update(None, views_of(encoded, 0, 1))
    memory, _ = network.update(memory, views_of(encoded, 2))
    refined = network.refine(memory, [views_of(encoded, 0, 1), views_of(encoded, 2)])
    assert torch.equal(refined.labels, memory.labels)
    assert refined.num_images == memory.num_images
    for old, new in zip(memory.layers[1:], refined.layers[1:], strict=True):  # the first keeps embedded tokens
        assert torch.equal(old[:, :6], new[:, :6])
        assert (old[:, 6:12] - new[:, 6:12]).abs().max() > 1e-5
        assert (old[:, 12:] - new[:, 12:]).abs().max() > 1e-5


@torch.no_grad()
def test_without_feedback_the_memory_keeps_plain_states():
    with_feedback, without = build(), build(feedback=False)
    without.load_state_dict(with_feedback.state_dict(), strict=False)
    encoded = with_feedback.encode(random_images(1, 2))
    changed, (first,) = with_feedback.update(None, encoded)
    plain, (second,) = without.update(None, encoded)
    torch.testing.assert_close(first.patches, second.patches)  # inside a call there is none yet
    assert [torch.equal(*pair) for pair in zip(changed.layers, plain.layers, strict=True)] == [False, False, True]


@torch.no_grad()
def test_only_the_first_view_has_a_special_place():
    network = build(update_batches=(4,))
    images = random_images(1, 4)
    expected = run(network, images)
    order = [0, 3, 1, 2]
    assert_same(run(network, images[:, order]), {name: value[:, order] for name, value in expected.items()})
    order = [1, 0, 2, 3]
    assert (run(network, images[:, order])['points'] - expected['points'][:, order]).abs().max() > 1e-5


@torch.no_grad()
def test_views_see_each_other_after_the_encoder_only():
    network, images = build(), random_images(1, 2)
    changed = torch.cat([images[:, :1], random_images(1, 1, seed=1)], dim=1)
    before, after = network.encode(images), network.encode(changed)
    torch.testing.assert_close(after.patches[:, 0], before.patches[:, 0])
    assert (network.decode(after).patches[:, 0] - network.decode(before).patches[:, 0]).abs().max() > 1e-5


@torch.no_grad()
def test_cameras_of_perfect_points_come_back():
    focal = torch.tensor([[9.0, 14.0]])
    poses = torch.eye(4).repeat(1, 2, 1, 1)
    poses[0, 1, :3] = torch.tensor([[0.0, 0, 1, 2], [0, 1, 0, 0.5], [-1, 0, 0, -1]])
    depth = 2 + random_images(1, 2)[:, :, 0]
    local_points = unproject(depth, pinhole_intrinsics(focal, (HEIGHT, WIDTH)))
    points = transform_points(poses[:, :, None], local_points)
    confidence = 1 + random_images(1, 2, seed=1)[:, :, 0]
    found = build().reconstruct({'points': points, 'local_points': local_points, 'confidence': confidence})
    torch.testing.assert_close(found.camera_to_world, poses, **CLOSE)
    torch.testing.assert_close(found.intrinsics, pinhole_intrinsics(focal, (HEIGHT, WIDTH)), **CLOSE)
    torch.testing.assert_close(found.depth, depth)
    assert found.valid.all()


@torch.no_grad()
def test_smaller_frequencies_are_nearer_positions():
    """Half the frequency is half the distance of the tokens: another result, except where there is one token."""
    images = random_images(1, 2)
    assert (run(build(frequency_scale=0.5), images)['points'] - run(build(), images)['points']).abs().max() > 1e-5
    small = random_images(1, 2, size=(4, 4))
    assert_same(run(build(frequency_scale=0.5), small), run(build(), small))


def made_up_target(views=3):
    depth = 2 + random_images(1, views)[:, :, 0]
    intrinsics = pinhole_intrinsics(torch.full((1, views), 10.0), (HEIGHT, WIDTH))
    poses = torch.eye(4).repeat(1, views, 1, 1)
    poses[0, :, 0, 3] = torch.arange(views) * 0.3
    return Reconstruction.from_depth(depth, intrinsics, poses)


def test_every_parameter_learns():
    network = build(training=True, training_keyframes=2)
    sum(MUSt3RCriterion()(run(network, random_images(1, 3)), made_up_target()).values()).backward()
    silent = [
        name for name, parameter in network.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert not silent


def test_training_from_scratch_lowers_every_term():
    network, images, target = build(training=True), random_images(1, 3), made_up_target()
    criterion, optimizer = MUSt3RCriterion(), torch.optim.AdamW(network.parameters(), lr=3e-3)
    history = []
    for _ in range(25):
        terms = criterion(run(network, images), target)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        history.append({name: value.item() for name, value in terms.items()})
    assert set(history[0]) == {'points', 'local_points', 'update_points', 'update_local_points'}
    assert all(history[-1][name] < 0.6 * history[0][name] for name in history[0])


def test_recomputed_activations_give_the_same_gradients():
    gradients, runs = [], []
    for checkpoint_activations in (False, True):
        network = build(training=True, training_keyframes=2, checkpoint_activations=checkpoint_activations)
        count = []
        network.decoder.blocks_dec[0].register_forward_pre_hook(lambda *_, count=count: count.append(1))
        torch.manual_seed(1)
        run(network, random_images(1, 3))['points'].sum().backward()
        gradients.append({n: p.grad for n, p in network.named_parameters() if p.grad is not None})
        runs.append(len(count))
    assert_same(gradients[1], gradients[0])
    assert runs[0] == 2
    assert runs[1] > runs[0]


@torch.no_grad()
def test_heads_stay_in_full_precision_under_autocast():
    network, images = build(), random_images(1, 3)
    expected = run(network, images)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = run(network, images)
    assert all(value.dtype == torch.float32 for value in found.values())
    torch.testing.assert_close(found['points'], expected['points'], rtol=0.05, atol=0.05)


@torch.no_grad()
def test_images_are_left_alone():
    images = random_images(1, 2)
    before = images.clone()
    run(build(), images)
    assert torch.equal(images, before)


def test_encoder_modules_are_what_makes_e():
    network, images = build(), random_images(1, 2)
    with torch.no_grad():
        before = network.encode(images).patches
        for name, parameter in network.named_parameters():
            if not name.startswith(tuple(f'{module}.' for module in network.encoder_modules())):
                parameter.add_(1)
        assert torch.equal(network.encode(images).patches, before)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'memory_mode': 'keys'}, r"`memory_mode` must be one of .* got 'keys'"),
        ({'max_keyframes': 0}, 'numbers of views from 1, got 0'),
        ({'update_batches': (2, 0)}, r'from 1, got 20, \(2, 0\)'),
        ({'update_batches': ()}, r'from 1, got 20, \(\)'),
        ({'training_keyframes': 0}, 'and 0'),
        ({'decoder_heads': 5}, '5 heads do not divide 24 channels'),
    ],
)
def test_wrong_arguments_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes)


@torch.no_grad()
def test_wrong_tokens_are_refused():
    network = build()
    encoded = network.encode(random_images(2, 2))
    memory, _ = network.update(None, encoded)
    with pytest.raises(ValueError, match='the memory is empty; let at least one view enter'):
        network.render(None, encoded)
    with pytest.raises(ValueError, match='the memory has 2 scenes, got tokens of 1'):
        network.update(memory, Tokens(encoded.patches[:1], encoded.grid))
    with pytest.raises(ValueError, match='the memory has 2 scenes, got tokens of 1'):
        network.render(memory, Tokens(encoded.patches[:1], encoded.grid))
    with pytest.raises(ValueError, match='the other stacks have 2 scenes, got tokens of 1'):
        network.update(None, [encoded, Tokens(encoded.patches[:1], encoded.grid)])
    with pytest.raises(ValueError, match=r'\(B, V, 8, 16\).* on the grid \(2, 4\), got \(2, 2, 6, 16\)'):
        network.update(None, [encoded, Tokens(encoded.patches, (2, 4))])
    with pytest.raises(ValueError, match='V >= 1'):
        network.update(None, views_of(encoded))
    with pytest.raises(ValueError, match='no view was given'):
        network.update(memory, [])
    with pytest.raises(ValueError, match='has 2 images, but the batches have 3 views'):
        network.refine(memory, [encoded, views_of(encoded, 0)])
    upright = network.encode(random_images(2, 1, size=(16, 16)))
    with pytest.raises(ValueError, match=r'images \[1\] have 6 tokens in the memory, got 16'):
        network.refine(memory, [views_of(encoded, 0), upright])


def test_images_off_the_patch_grid_are_refused():
    with pytest.raises(ValueError, match='multiples of the patch size 4, got 10x12'):
        build().encode(torch.rand(1, 1, 3, 10, 12))


@pytest.mark.parametrize('feedback', [False, True])
def test_a_file_with_the_other_feedback_is_refused(feedback, tmp_path):
    path = tmp_path / 'network.pth'
    torch.save(build(feedback=feedback).state_dict(), path)
    with pytest.raises(ValueError, match=f'set `feedback={feedback}`'):
        build(feedback=not feedback).load_official(str(path))
    build(feedback=feedback).load_official(str(path))
