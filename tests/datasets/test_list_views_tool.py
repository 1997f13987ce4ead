"""Oracle: the transform that the list is made with."""

import json
import runpy
from pathlib import Path

import pytest

from pano3d.datasets import LinspaceViews, ListedViews, read_scene

TOOL = Path(__file__).parents[2] / 'tools' / 'list_views.py'


@pytest.fixture
def run(monkeypatch):
    """The exit status of the tool in this process."""

    def call(*arguments):
        monkeypatch.setattr('sys.argv', [str(TOOL), *map(str, arguments)])
        with pytest.raises(SystemExit) as status:
            runpy.run_path(str(TOOL), run_name='__main__')
        return status.value.code

    return call


def test_the_list_gives_the_views_that_it_was_made_of(data_root, tmp_path, run):
    assert run(data_root, 'train.json', tmp_path / 'views.json', '--num-views', 4) == 0
    listed = ListedViews(path=str(tmp_path / 'views.json'))
    for scene_id in ('scene0000_00', 'scene0001_00', 'scene0002_00'):
        start = {'scene': read_scene(str(data_root / 'scenes' / scene_id)), 'backend_args': None}
        expected = LinspaceViews(num_views=4)(start)['views']
        assert [view.id for view in listed(start)['views']] == [view.id for view in expected]


def read(path):
    return json.loads(path.read_text())['views']


def test_every_20th_and_every_frame(data_root, tmp_path, run):
    frames = {'scene0000_00': 6, 'scene0001_00': 9, 'scene0002_00': 3}  # numbered 0, 20, 40, ...
    for option, step in ((['--all'], 20), (['--stride', 20], 20), (['--stride', 60], 60)):
        assert run(data_root, 'train.json', tmp_path / 'views.json', *option) == 0
        expected = {name: [[f'{i:06d}' for i in range(0, 20 * n, step)]] for name, n in frames.items()}
        assert read(tmp_path / 'views.json') == expected


def test_lists_of_others(data_root, tmp_path, run, capsys):
    lines, out = tmp_path / 'pairs.txt', tmp_path / 'views.json'
    lines.write_text('scene0001_00 0 40  # a pair\nscene0001_00 100 80\nscene0000_00 000020 60\n')
    assert run(data_root, 'train.json', out, '--frames', lines) == 0
    pairs = [['000000', '000040'], ['000100', '000080']]
    assert read(out) == {'scene0001_00': pairs, 'scene0000_00': [['000020', '000060']]}
    for line, message in (('scene0707_00 0', 'e.g. scene0707_00'), ('scene0000_00 0 10', "no frames ['10']")):
        out.unlink(missing_ok=True)
        lines.write_text(line)
        assert run(data_root, 'train.json', out, '--frames', lines) == 2
        assert message in capsys.readouterr().err
        assert not out.exists()


def test_a_list_that_is_not_there(data_root, tmp_path, run, capsys):
    assert run(data_root, 'nothing.json', tmp_path / 'views.json') == 2
    assert 'nothing.json' in capsys.readouterr().err
    assert not (tmp_path / 'views.json').exists()
