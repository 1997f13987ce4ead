"""Oracle: the transform that the list is made with."""

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


def test_a_list_that_is_not_there(data_root, tmp_path, run, capsys):
    assert run(data_root, 'nothing.json', tmp_path / 'views.json') == 2
    assert 'nothing.json' in capsys.readouterr().err
    assert not (tmp_path / 'views.json').exists()
