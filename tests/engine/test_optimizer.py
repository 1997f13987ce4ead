"""Parameter groups: who is in which, with what."""

import pytest
from torch import nn

from pano3d.engine import PartOptimWrapperConstructor


def build(model: nn.Module, **paramwise):
    settings = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-2, weight_decay=0.1))
    return PartOptimWrapperConstructor(settings, paramwise)(model).optimizer


@pytest.fixture
def model() -> nn.Module:
    model = nn.ModuleDict({'backbone': nn.Linear(2, 3), 'head': nn.Linear(3, 4)})
    model['backbone'].bias.requires_grad_(False)
    return model


def test_each_part_is_one_group_with_its_own_rate_and_decay(model):
    optimizer = build(model, custom_keys={'backbone': dict(lr_mult=0.5, decay_mult=0.0)})
    rest, backbone = optimizer.param_groups
    assert (rest['lr'], rest['weight_decay']) == (1e-2, 0.1)
    assert (backbone['lr'], backbone['weight_decay']) == (5e-3, 0.0)
    assert {id(p) for p in rest['params']} == {id(p) for p in model['head'].parameters()}
    assert [id(p) for p in backbone['params']] == [id(model['backbone'].weight)]  # the bias is frozen


def test_the_longest_match_decides(model):
    optimizer = build(model, custom_keys={'head': dict(lr_mult=2.0), 'head.bias': dict(lr_mult=3.0)})
    rates = {id(p): group['lr'] for group in optimizer.param_groups for p in group['params']}
    assert rates[id(model['head'].weight)] == pytest.approx(2e-2)
    assert rates[id(model['head'].bias)] == pytest.approx(3e-2)


def test_an_entry_that_matches_nothing_is_an_error(model):
    with pytest.raises(ValueError, match="'decoder' matches no parameter"):
        build(model, custom_keys={'decoder': dict(lr_mult=2.0)})


@pytest.mark.parametrize('paramwise', [dict(bias_lr_mult=2.0), dict(custom_keys={'head': dict(lr=1.0)})])
def test_options_that_would_be_ignored_are_errors(model, paramwise):
    with pytest.raises(ValueError, match='may hold custom_keys'):
        build(model, **paramwise)
