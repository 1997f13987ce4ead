"""Checkpoints are data: what is read, what is refused, and what the message says."""

import pickle

import pytest
import torch
from torch import nn

from pano3d.engine import load_model_weights


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def test_weights_of_a_training_checkpoint_and_of_a_bare_state_dict_are_loaded(model, tmp_path):
    wanted = {name: torch.randn_like(value) for name, value in model.state_dict().items()}
    for name, content in (
        (
            'training.pth',
            {'state_dict': wanted, 'meta': {'iter': 3}},
        ),
        ('bare.pth', wanted),
    ):
        torch.save(content, tmp_path / name)
        load_model_weights(model, tmp_path / name)
        assert all(torch.equal(value, wanted[key]) for key, value in model.state_dict().items())


def test_differences_are_named(model, tmp_path):
    state = model.state_dict()
    state['1.weight'] = torch.zeros(5, 4)
    state['extra'] = state.pop('0.bias')
    torch.save(state, tmp_path / 'other.pth')
    with pytest.raises(ValueError) as error:
        load_model_weights(model, tmp_path / 'other.pth')
    for part in (
        'other.pth does not hold the weights of Sequential as configured',
        '1 missing in 0: 0.bias',
        '1 unexpected in extra: extra',
        '1.weight: expected (2, 4), found (5, 4)',
    ):
        assert part in str(error.value)


def test_a_classifier_of_another_label_space_is_guessed(tmp_path):
    model = nn.ModuleDict({'classifier': nn.Linear(3, 4), 'layer': nn.Linear(3, 3)})
    state = model.state_dict()
    torch.save(state | {'classifier.bias': torch.zeros(5)}, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='was it trained on another label space'):
        load_model_weights(model, tmp_path / 'a.pth')
    torch.save(state | {'layer.bias': torch.zeros(5)}, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'layer\.bias: expected \(3,\), found \(5,\)') as error:
        load_model_weights(model, tmp_path / 'a.pth')
    assert 'label space' not in str(error.value)


class Hostile:
    def __reduce__(self):
        return (print, ('code of a checkpoint was run',))


def test_code_in_a_checkpoint_is_refused_and_not_run(model, tmp_path, capsys):
    torch.save({'state_dict': {'0.weight': Hostile()}}, tmp_path / 'hostile.pth')
    with pytest.raises(ValueError, match='read safely'):
        load_model_weights(model, tmp_path / 'hostile.pth')
    assert 'was run' not in capsys.readouterr().out


@pytest.mark.parametrize('content', [b'', b'not a checkpoint', pickle.dumps([1, 2])])
def test_other_files_are_refused(model, tmp_path, content):
    path = tmp_path / 'file.pth'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r'file\.pth'):
        load_model_weights(model, path)


def test_a_missing_file_is_named(model, tmp_path):
    with pytest.raises(ValueError, match=r'nothing\.pth: no such file'):
        load_model_weights(model, tmp_path / 'nothing.pth')
