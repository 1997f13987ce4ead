"""What the report says of released, damaged, foreign and trained files; the tool prints it and its status tells."""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope
from torch import Tensor

from pano3d.engine.checkpoint_report import report_checkpoint
from pano3d.engine.config import load_config
from pano3d.models.backbones.dust3r import OFFICIAL_NAMES as DUST3R_NAMES
from pano3d.models.backbones.must3r import OFFICIAL_NAMES as MUST3R_NAMES
from pano3d.models.backbones.released import RELEASED
from pano3d.models.loading import rename
from pano3d.registry import MODELS

ROOT = Path(__file__).parents[2]
TINY = ROOT / 'configs' / 'pano3d_dust3r_demo.py'
ARCHITECTURES = {repr(network.backbone): network for network in RELEASED}.values()
OFFICIAL_NAMES = {'DUSt3RBackbone': DUST3R_NAMES, 'MASt3RBackbone': DUST3R_NAMES, 'MUSt3RBackbone': MUST3R_NAMES}


@pytest.fixture(autouse=True)
def values_are_not_read(monkeypatch):
    """Files of full size here share one zero among all values; to look at each of 10^9 of them would take long."""
    monkeypatch.setattr('pano3d.engine.checkpoint_report.not_finite', lambda state: [])


def full_size(config: dict) -> dict[str, Tensor]:
    """Official names and shapes of a backbone, in next to no memory."""
    with DefaultScope.overwrite_default_scope('pano3d'), torch.device('meta'):
        state = MODELS.build(dict(config)).state_dict()
    names = OFFICIAL_NAMES.get(config['type'], {})
    state = rename(state, {ours: theirs for theirs, ours in names.items()})
    return {name: torch.zeros(1).expand(value.shape) for name, value in state.items()}


def save(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def text(path: Path, config: Path | None = None) -> str:
    return '\n'.join(report_checkpoint(path, config).lines)


@pytest.mark.parametrize('network', ARCHITECTURES, ids=lambda network: network.name)
def test_each_released_network_is_recognised_and_no_other(network, tmp_path):
    state = full_size(network.backbone)
    content = {'args': argparse.Namespace(model='text'), 'model': state}
    if network.backbone['type'] == 'MUSt3RBackbone':
        content = {'args': argparse.Namespace(encoder='text')} | {
            part: {name.removeprefix(f'{part}.'): value for name, value in state.items() if name.startswith(part)}
            for part in ('encoder', 'decoder')
        }
    report = report_checkpoint(save(content, tmp_path / 'a.pth'))
    assert report.fits
    [verdict] = [line for line in report.lines if line.startswith('FITS')]
    same = [other.name for other in RELEASED if other.backbone == network.backbone]
    others = [other.name for other in RELEASED if other.backbone != network.backbone]
    assert set(verdict.removeprefix('FITS ').rpartition(' (')[0].split(' or ')) == set(same)
    assert all(f' {name} ' not in f' {verdict} ' for name in others)
    for known in [known for known in RELEASED if known.name in same]:
        assert any(known.licence in line and known.terms_from in line and known.name in line for line in report.lines)
    assert '  args: left out, holds objects of the script that wrote the file' in report.lines


def test_weights_that_have_no_place_are_told(tmp_path):
    state = full_size({'type': 'VGGTBackbone'}) | {'track_head.tracker.updateformer.virual_tracks': torch.zeros(1)}
    found = text(save(state, tmp_path / 'model.pt'))
    assert 'FITS VGGT-1B or VGGT-1B-Commercial (VGGTBackbone)' in found
    assert '  1 weights track_head.* are left out (Pano3D does not track points)' in found


def test_the_nearest_network_and_what_keeps_it_are_told(tmp_path):
    state = full_size({'type': 'Pi3Backbone'})
    del state['register_token']
    state['surprise.weight'] = torch.zeros(1)
    state['camera_head.fc_t.bias'] = torch.zeros(4)
    report = report_checkpoint(save(state, tmp_path / 'a.pth'))
    assert not report.fits
    shared = len(state) - 1
    assert list(report.lines[-6:-1]) == [
        f'FITS none; nearest is Pi3 (Pi3Backbone): {shared} names in common, {shared - 1} of its shape',
        '  1 missing in register_token: register_token',
        '  1 unexpected in surprise: surprise.weight',
        '  1 of another shape in camera_head: camera_head.fc_t.bias',
        '  camera_head.fc_t.bias: expected (3,), found (4,)',
    ]


def test_must3r_without_feedback_is_explained(tmp_path):
    state = full_size({'type': 'MUSt3RBackbone', 'feedback': False})
    parts = {
        part: {name.removeprefix(f'{part}.'): value for name, value in state.items() if name.startswith(part)}
        for part in ('encoder', 'decoder')
    }
    report = report_checkpoint(save(parts, tmp_path / 'a.pth'))
    assert not report.fits
    assert any('not taken: ' in line and '`feedback=False`' in line for line in report.lines)
    assert not report_checkpoint(save(state, tmp_path / 'flat.pth')).fits
    assert any('`feedback=False`' in line for line in report_checkpoint(tmp_path / 'flat.pth').lines)


def test_other_sizes_are_nearest_to_their_own_kind(tmp_path):
    """By name, even if no shape agrees."""
    state = tiny_backbone().state_dict()
    path = save(rename(state, {ours: theirs for theirs, ours in DUST3R_NAMES.items()}), tmp_path / 'a.pth')
    report = report_checkpoint(path)
    assert any(line.startswith('FITS none; nearest is DUSt3R_ViTLarge_BaseDecoder_512_') for line in report.lines)
    assert report.lines[-1].endswith('--config CONFIG')
    assert report_checkpoint(path, TINY).fits


def test_other_networks_fit_none(tmp_path):
    report = report_checkpoint(save({'layer1.0.conv1.weight': torch.zeros(2, 2)}, tmp_path / 'a.pth'))
    assert report.lines[-2] == 'FITS none: no names in common'
    found = '\n'.join(report.lines)
    assert '1 tensors, 0.00 million values, 1 of float32' in found


def test_size_precision_and_names_for_one_tensor_are_counted_right(tmp_path):
    half = torch.zeros(1000, 3000, dtype=torch.float16)
    state = {'a': half, 'same': half, 'b': torch.zeros(500_000)}
    found = text(save({'model': state, 'epoch': 7, 'optimizer': {}}, tmp_path / 'a.pth'))
    assert '3 tensors, 3.50 million values, 2 of float16, 1 of float32' in found
    assert '  model: 3 tensors' in found
    assert '  epoch: 7' in found
    assert '  optimizer: 0 entries, no tensors' in found
    assert ': PyTorch, 7.6 MiB' in found


def test_damaged_values_do_not_fit(tmp_path, monkeypatch):
    monkeypatch.undo()
    state = tiny_backbone().state_dict()
    state = rename(state, {ours: theirs for theirs, ours in DUST3R_NAMES.items()})
    path = save(state, tmp_path / 'a.pth')
    assert report_checkpoint(path, TINY).fits
    state['dec_norm.bias'][0] = float('nan')
    report = report_checkpoint(save(state, path), TINY)
    assert not report.fits
    assert report.lines[-1].startswith('DAMAGED: 1 tensors have NaN or infinite values, e.g. dec_norm.bias')


def tiny_model() -> torch.nn.Module:
    with DefaultScope.overwrite_default_scope('pano3d'):
        return MODELS.build(load_config(TINY).model)


def tiny_backbone() -> torch.nn.Module:
    return tiny_model().backbone


def test_checkpoints_of_training_are_recognised(tmp_path):
    state = tiny_model().state_dict()
    content = {'state_dict': state, 'meta': {'iter': 30, 'epoch': 1, 'cfg': 'import os'}, 'optimizer': {}}
    path = save(content, tmp_path / 'iter_30.pth')
    assert 'A checkpoint of Pano3D training: iter 30, epoch 1' in text(path)
    assert not report_checkpoint(path).fits
    report = report_checkpoint(path, TINY)
    assert report.fits
    assert report.lines[-1] == f'FITS the model of {TINY}'
    del state['head.queries.weight' if 'head.queries.weight' in state else sorted(state)[-1]]
    assert not report_checkpoint(save(content, path), TINY).fits


def test_backbones_inside_trained_models_are_recognised(tmp_path):
    """Under this package's own names, which are not the official ones for every network."""
    network = RELEASED[0]
    with DefaultScope.overwrite_default_scope('pano3d'), torch.device('meta'):
        state = MODELS.build(dict(network.backbone)).state_dict()
    state = {f'backbone.{name}': torch.zeros(1).expand(value.shape) for name, value in state.items()}
    state['head.weight'] = torch.zeros(1)
    assert f'FITS {network.name} (DUSt3RBackbone)' in text(save({'state_dict': state}, tmp_path / 'iter_1.pth'))


def test_configs_without_a_backbone_are_refused(tmp_path):
    config = tmp_path / 'config.py'
    config.write_text("default_scope = 'pano3d'\nmodel = dict(type='LayoutBaseline')\n")
    path = save({'a': torch.zeros(1)}, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'no `model\.backbone`|LayoutBaseline'):
        report_checkpoint(path, config)


@pytest.fixture
def run(monkeypatch) -> Callable[..., int]:
    """The status of the tool."""

    def call(*arguments: object) -> int:
        monkeypatch.setattr(sys, 'argv', ['check_checkpoint.py', *map(str, arguments)])
        try:
            runpy.run_path(str(ROOT / 'tools' / 'check_checkpoint.py'), run_name='__main__')
        except SystemExit as error:
            if isinstance(error.code, str):
                print(error.code, file=sys.stderr)
                return 1
            return error.code or 0
        return 0

    return call


def test_status_of_the_tool_tells_whether_the_file_fits(run, tmp_path, capsys):
    fitting = save(full_size(RELEASED[0].backbone), tmp_path / 'fitting.pth')
    other = save({'a': torch.zeros(1)}, tmp_path / 'other.pth')
    assert run(fitting) == 0
    assert f'FITS {RELEASED[0].name}' in capsys.readouterr().out
    assert run(fitting, '--config', TINY) == 1
    assert 'of another shape' in capsys.readouterr().out
    assert run(other) == 1
    output = capsys.readouterr()
    assert 'FITS none' in output.out
    assert f'check_checkpoint.py: {other} does not fit' in output.err
    assert run(tmp_path / 'absent.pth') == 1
    assert 'absent.pth: no such file' in capsys.readouterr().err
    (tmp_path / 'page.pth').write_text('<html>')
    assert run(tmp_path / 'page.pth') == 1
    assert 'a web page in place of the file' in capsys.readouterr().err
    assert run(fitting, '--config', tmp_path / 'absent.py') == 1
    assert 'absent.py: no such config' in capsys.readouterr().err
