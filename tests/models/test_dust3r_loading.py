"""Files as they are released: names, twins, one decoder for two, weights that are never read."""

import argparse
import logging

import pytest
import torch
from mmengine.logging import MMLogger
from safetensors.torch import save_file

from pano3d.models import DUSt3RBackbone, MASt3RBackbone
from pano3d.models.backbones.dust3r import OFFICIAL_NAMES
from pano3d.models.loading import rename

TINY = {
    'encoder_dim': 16,
    'encoder_depth': 1,
    'encoder_heads': 2,
    'decoder_dim': 8,
    'decoder_depth': 2,
    'decoder_heads': 2,
    'dense_features': 4,
    'dense_hidden': 4,
    'dense_channels': (4, 4, 4, 4),
}
UNIT = 'downstream_head1.dpt.scratch.refinenet4.resConfUnit1.conv1.weight'
TWIN = 'downstream_head2.dpt.scratch.layer{}_rn.weight'
SECOND = 'downstream_head2.dpt.scratch.layer_rn.{}.weight'


def official_state(network):
    """The weights of a network under the official names, with all that official files hold besides."""
    state = rename(network.state_dict(), {ours: theirs for theirs, ours in OFFICIAL_NAMES.items()})
    state |= {'mask_token': torch.zeros(1, 1, 8), UNIT: torch.zeros(4, 4, 3, 3)}
    for side in (1, 2):
        for level in range(4):
            name = f'downstream_head{side}.dpt.scratch.layer{level + 1}_rn.weight'
            state[f'downstream_head{side}.dpt.scratch.layer_rn.{level}.weight'] = state[name].clone()
    return {name: value.clone() for name, value in state.items()}


def load(state, path, kind=DUSt3RBackbone, **changes):
    """A network filled from a file with these tensors."""
    save_file(state, path)
    network = kind(**(TINY | changes), init_cfg={'type': 'Pretrained', 'checkpoint': str(path)})
    network.init_weights()
    return network


def assert_equal_weights(found, expected):
    ours, theirs = found.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize('kept', ['both', 'layer_rn', 'layerN_rn'])
def test_twins_may_come_under_either_name(tmp_path, kept):
    network = DUSt3RBackbone(**TINY)
    state = official_state(network)
    dropped = {'both': '\n', 'layer_rn': '_rn.weight', 'layerN_rn': '.layer_rn.'}[kept]
    state = {name: value for name, value in state.items() if dropped not in name}
    assert_equal_weights(load(state, tmp_path / 'model.safetensors'), network)


def test_twins_that_differ_are_refused(tmp_path):
    state = official_state(DUSt3RBackbone(**TINY))
    state[SECOND.format(2)] += 1
    with pytest.raises(ValueError, match=r'model.safetensors: downstream_head2.*layer3_rn.* two different ones'):
        load(state, tmp_path / 'model.safetensors')


def test_a_twin_that_is_missing_altogether_is_named(tmp_path):
    state = official_state(DUSt3RBackbone(**TINY))
    del state[SECOND.format(0)], state[TWIN.format(1)]
    with pytest.raises(ValueError, match=r'1 missing in downstream_head2: .*layer1_rn.weight'):
        load(state, tmp_path / 'model.safetensors')


def test_one_decoder_fills_both(tmp_path):
    network = DUSt3RBackbone(**TINY)
    state = {n: v for n, v in official_state(network).items() if not n.startswith('dec_blocks2.')}
    network.dec_blocks2.load_state_dict(network.dec_blocks.state_dict())
    assert_equal_weights(load(state, tmp_path / 'model.safetensors'), network)


def test_half_of_a_second_decoder_is_refused(tmp_path):
    state = official_state(DUSt3RBackbone(**TINY))
    state = {name: value for name, value in state.items() if not name.startswith('dec_blocks2.1.')}
    with pytest.raises(ValueError, match=r'missing in dec_blocks2'):
        load(state, tmp_path / 'model.safetensors')


def test_released_files_with_arguments_load(tmp_path):
    network = DUSt3RBackbone(**TINY)
    arguments = argparse.Namespace(model='AsymmetricCroCo3DStereo(...)')
    torch.save({'args': arguments, 'model': official_state(network), 'epoch': 3}, tmp_path / 'model.pth')
    found = DUSt3RBackbone(**TINY)
    found.load_official(str(tmp_path / 'model.pth'))
    assert_equal_weights(found, network)


def test_what_is_never_read_is_left_out_with_a_message(tmp_path, caplog):
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.INFO):
            network = load(official_state(DUSt3RBackbone(**TINY)), tmp_path / 'model.safetensors')
    finally:
        logger.removeHandler(caplog.handler)
    assert 'mask_token' in caplog.text
    assert 'downstream_head1.dpt.scratch.refinenet4.resConfUnit1.' in caplog.text
    assert not any('mask_token' in name or 'refinenet4.resConfUnit1' in name for name in network.state_dict())


def test_a_file_with_linear_heads_fits_them_alone(tmp_path):
    network = DUSt3RBackbone(**TINY, head='linear')
    state = rename(network.state_dict(), {ours: theirs for theirs, ours in OFFICIAL_NAMES.items()})
    assert 'downstream_head1.proj.weight' in state
    assert_equal_weights(load(state, tmp_path / 'model.safetensors', head='linear'), network)
    with pytest.raises(ValueError, match=r'unexpected in downstream_head1: downstream_head1.proj'):
        load(state, tmp_path / 'model.safetensors')


def mast3r_layout():
    """Names and shapes that the official code gives the released MASt3R; its other weights are those of DUSt3R."""
    shapes = {'fc1.weight': (7168, 1792), 'fc1.bias': (7168,), 'fc2.weight': (6400, 7168), 'fc2.bias': (6400,)}
    return {
        f'downstream_head{side}.head_local_features.{name}': shape for side in (1, 2) for name, shape in shapes.items()
    }


def test_mast3r_has_the_layout_of_the_release():
    with torch.device('meta'):
        larger, smaller = MASt3RBackbone().state_dict(), DUSt3RBackbone().state_dict()
    found = {name: tuple(value.shape) for name, value in larger.items() if name not in smaller}
    assert found == mast3r_layout()
    assert smaller.keys() <= larger.keys()


def test_mast3r_file_loads_and_does_not_pass_for_dust3r(tmp_path):
    network = MASt3RBackbone(**TINY)
    state = official_state(network)
    assert_equal_weights(load(state, tmp_path / 'model.safetensors', MASt3RBackbone), network)
    with pytest.raises(ValueError, match=r'unexpected in downstream_head1: .*head_local_features'):
        load(state, tmp_path / 'model.safetensors')


def test_no_weight_is_left_without_a_use():
    """571.17 million weights are what the official full-size network reads."""
    with torch.device('meta'):
        network = DUSt3RBackbone()
    assert not list(network.buffers())
    never_read = 768 + 2 * 2 * (256 * 256 * 9 + 256)  # the mask token; two convolutions in each of the two heads
    assert sum(parameter.numel() for parameter in network.parameters()) == 571_171_208 - never_read
