"""The backbones against independent plain implementations (tools/benchmarks/plain) with the same random weights.

This goes beyond the reference values: other numbers of views, non-square and odd grids, several sizes in a scene.
"""

import re
from dataclasses import replace

import pytest
import torch
from peers import FAMILIES, build_pair, difference, run_ours, share_weights
from plain import PlainDUSt3R, PlainMUSt3R

from pano3d.models.backbones import Tokens

CLOSE = 1e-4  # both relative and absolute
NEVER_READ = ('mask_token', 'refinenet4.resConfUnit1')
WITHOUT_EFFECT = {
    'dust3r': NEVER_READ,
    # without positions a constant added to all keys changes no softmax
    'must3r': ('cross_attn.projk.bias',),
    'vggt': NEVER_READ,
    'pi3': (),
}
CPU = torch.device('cpu')


def random_images(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def with_sizes(name, **changes):
    family = FAMILIES[name]
    return replace(family, sizes={'tiny': family.sizes['tiny'] | changes})


def on_grid(network, batch, views, grid):
    return random_images(batch, views, 3, grid[0] * network.patch_size, grid[1] * network.patch_size)


@torch.no_grad()
@pytest.mark.parametrize(('views', 'grid'), [(5, (3, 7)), (2, (5, 2)), (9, (3, 3))])
@pytest.mark.parametrize('name', FAMILIES)
def test_outputs_agree(name, views, grid):
    """Nine views are more than the dense heads take at a time; 3 x 3 is the size of the learned position table."""
    family = FAMILIES[name]
    ours, plain = build_pair(family, 'tiny', CPU)
    images = on_grid(ours, 2, views, grid)
    assert difference(run_ours(ours, images), family.run_plain(plain, images)) < CLOSE


@torch.no_grad()
@pytest.mark.parametrize('name', [name for name in FAMILIES if name != 'dust3r'])
def test_a_single_view_agrees(name):
    family = FAMILIES[name]
    ours, plain = build_pair(family, 'tiny', CPU)
    images = on_grid(ours, 1, 1, (4, 3))
    assert difference(run_ours(ours, images), family.run_plain(plain, images)) < CLOSE


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize('name', FAMILIES)
def test_every_kind_of_weight_counts(name):
    """A weight that the plain network alone has changed shows; of alike blocks one is tried."""
    family = FAMILIES[name]
    ours, plain = build_pair(family, 'tiny', CPU)
    images = on_grid(ours, 1, 2, (3, 2))
    expected = run_ours(ours, images)
    kinds = {re.sub(r'blocks(\w*)\.\d+', r'blocks\1', name): (name, value) for name, value in plain.named_parameters()}
    for parameter_name, parameter in kinds.values():
        if any(part in parameter_name for part in WITHOUT_EFFECT[name]):
            continue
        kept = parameter.data
        noise = torch.randn(kept.shape, generator=torch.Generator().manual_seed(2))
        parameter.data = kept + 0.1 * noise
        assert difference(expected, family.run_plain(plain, images)) > CLOSE, parameter_name
        parameter.data = kept
    assert difference(expected, family.run_plain(plain, images)) < CLOSE


@pytest.mark.parametrize('name', FAMILIES)
def test_full_size_networks_have_the_same_weights(name):
    family = FAMILIES[name]
    with torch.device('meta'):
        ours, plain = family.ours(), family.plain()
    # without second names of one tensor, which cannot be compared here
    state = {key: value for key, value in plain.state_dict().items() if '.layer_rn.' not in key}
    share_weights(ours, state)  # strict: every name and shape


@torch.no_grad()
@pytest.mark.parametrize('head', ['dpt', 'linear'])
def test_dust3r_pairs_of_two_sizes(head):
    family = with_sizes('dust3r', head=head)
    ours, plain = build_pair(family, 'tiny', CPU)
    assert isinstance(plain, PlainDUSt3R)
    images = [on_grid(ours, 1, 3, grid) for grid in ((5, 3), (2, 7))]
    expected = plain(images[0][0], images[1][0])
    encoded = [ours.encode(side) for side in images]
    decoded = ours.decode_pairs(*encoded)
    (points1, confidence1), (points2, confidence2) = ours.regress_pairs(encoded, decoded)
    found = {
        'decoded1': decoded[0].patches,
        'decoded2': decoded[1].patches,
        'points1': points1,
        'confidence1': confidence1,
        'points2': points2,
        'confidence2': confidence2,
    }
    assert difference({name: value[0] for name, value in found.items()}, expected) < CLOSE


@torch.no_grad()
@pytest.mark.parametrize('feedback', [True, False])
def test_must3r_views_of_two_sizes_one_after_another(feedback):
    """Two sizes begin the scene, one view enters later, one is rendered without entering."""
    family = with_sizes('must3r', feedback=feedback)
    ours, plain = build_pair(family, 'tiny', CPU)
    assert isinstance(plain, PlainMUSt3R)
    wide, tall = on_grid(ours, 2, 3, (2, 5)), on_grid(ours, 2, 2, (4, 3))

    stacks = [ours.encode(wide), ours.encode(tall)]
    first = [Tokens(stacks[0].patches[:, :2], stacks[0].grid), Tokens(stacks[1].patches[:, :1], stacks[1].grid)]
    memory, started = ours.update(None, first)
    memory, (later,) = ours.update(memory, Tokens(stacks[1].patches[:, 1:], stacks[1].grid))
    rendered = ours.render(memory, Tokens(stacks[0].patches[:, 2:], stacks[0].grid))

    encode, decoder = plain.encoder, plain.decoder
    views = [encode(view) for view in (wide[:, 0], wide[:, 1], tall[:, 0], tall[:, 1], wide[:, 2])]
    tokens, positions = [list(side) for side in zip(*views, strict=True)]
    plain_memory, states = decoder.update(tokens[:3], positions[:3], None)
    plain_memory, late_states = decoder.update(tokens[3:4], positions[3:4], plain_memory)
    last = decoder.render(tokens[4], positions[4], plain_memory)

    torch.testing.assert_close(started[0].patches, torch.stack(states[:2], dim=1), rtol=CLOSE, atol=CLOSE)
    torch.testing.assert_close(started[1].patches[:, 0], states[2], rtol=CLOSE, atol=CLOSE)
    torch.testing.assert_close(later.patches[:, 0], late_states[0], rtol=CLOSE, atol=CLOSE)
    torch.testing.assert_close(rendered.patches[:, 0], last, rtol=CLOSE, atol=CLOSE)
    for layer, entry in zip(memory.layers, plain_memory, strict=True):
        torch.testing.assert_close(layer, torch.cat(entry, dim=-1), rtol=CLOSE, atol=CLOSE)
