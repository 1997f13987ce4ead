"""tools/infer.py, run in this process so that it knows the network of these tests."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pano3d.apis import Pano3DInferencer

TOOL = Path(__file__).parents[2] / 'tools' / 'infer.py'


@pytest.fixture
def arguments(config, tmp_path) -> dict[str, str]:
    config.dump(tmp_path / 'config.py')
    torch.save(Pano3DInferencer(config).model.state_dict(), tmp_path / 'model.pth')
    (tmp_path / 'room').mkdir()
    for number, red in enumerate((0, 255, 0)):
        Image.fromarray(np.full((20, 30, 3), (red, 0, 0), np.uint8)).save(tmp_path / 'room' / f'{number}.png')
    return {
        'folder': str(tmp_path / 'room'),
        '--config': str(tmp_path / 'config.py'),
        '--checkpoint': str(tmp_path / 'model.pth'),
        '--out': str(tmp_path / 'out'),
    }


def run(monkeypatch, arguments: dict[str, str]) -> None:
    options = [part for name, value in arguments.items() if name != 'folder' for part in (name, value)]
    monkeypatch.setattr(sys, 'argv', ['infer.py', arguments['folder'], *options])
    runpy.run_path(str(TOOL), run_name='__main__')


def test_prints_the_objects_and_the_folder(monkeypatch, capsys, arguments):
    run(monkeypatch, {**arguments, '--device': 'cpu'})
    _, chair, wall, folder = capsys.readouterr().out.splitlines()[-4:]
    assert chair.split()[:5] == ['chair', '1', '0.90', '1/3', '600']
    assert wall.split()[:5] == ['wall', '-', '0.50', '2/3', '1200']
    assert folder == arguments['--out'] and (Path(folder) / 'scene.ply').is_file()


def test_max_views(monkeypatch, capsys, arguments):
    run(monkeypatch, {**arguments, '--max-views': '2'})
    assert '0/2' in capsys.readouterr().out  # the red image in the middle is left out


@pytest.mark.parametrize(
    ('option', 'value', 'message'),
    [
        ('folder', 'nowhere', 'nowhere does not exist'),
        ('--checkpoint', 'nowhere.pth', r'nowhere\.pth'),
        ('--config', 'nowhere.py', r'nowhere\.py'),
        ('--device', 'cuda:99', 'not available'),
        ('--classes', 'sofa,plant', 'RedIsChair has fixed classes'),
        ('--stuff', 'wall', '--stuff needs --classes'),
        ('--out', str(TOOL), r'infer\.py'),  # a file, not a folder
    ],
)
def test_mistakes_end_with_one_line(monkeypatch, arguments, option, value, message):
    with pytest.raises(SystemExit, match=rf'^infer\.py: .*{message}'):
        run(monkeypatch, {**arguments, option: value})
