"""The benchmark of the conversion compares like with like, and notices when it does not."""

import json

import conversion
import numpy as np
import pytest
from PIL import Image

from pano3d.conversion import SensReader


def test_it_writes_what_it_measured(tmp_path, capsys):
    path = tmp_path / 'numbers.json'
    assert conversion.main(['--frames', '3', '--frame-skip', '2', '--repeats', '1', '--json', str(path)]) == 0
    assert 'ratio: ' in capsys.readouterr().out
    result = json.loads(path.read_text())['result']
    assert result['differences']['depth'] == result['differences']['pose'] == 0
    assert 0 < result['differences']['color'] < conversion.COLOR_TOLERANCE  # the plain reader encodes again
    rate = result['frames_per_cpu_second']
    assert result['ratio'] == rate['ours'] / rate['plain']
    for way in ('ours', 'plain'):
        ((_, seconds),) = result['wall_and_cpu_seconds'][way]
        assert rate[way] == pytest.approx(2 / seconds)


def test_recordings_are_seeded(tmp_path):
    for name, seed in (('a', 0), ('b', 0), ('c', 1)):
        conversion.write_recording(tmp_path / name, 1, seed=seed)
    contents = [(tmp_path / name).read_bytes() for name in 'abc']
    assert contents[0] == contents[1] != contents[2]
    with SensReader(tmp_path / 'a') as reader:
        assert (reader.header.color_size, reader.header.depth_size) == ((1296, 968), (640, 480))
        depth = reader.decode_depth(next(reader.frames()))
    assert 0.05 < np.mean(depth == 0) < 0.5
    assert 400 < depth[depth > 0].min() < depth.max() < 7000


def test_other_depth_or_other_files_are_noticed(tmp_path):
    for way, value in (('ours', 1), ('plain', 3)):
        (tmp_path / way / 'depth').mkdir(parents=True)
        Image.fromarray(np.full((2, 2), value, np.uint16)).save(tmp_path / way / 'depth' / '0.png')
    assert conversion.compare(tmp_path / 'ours', tmp_path / 'plain') == {'depth': 2, 'color': 0}
    (tmp_path / 'ours' / 'depth' / '1.png').touch()
    with pytest.raises(ValueError, match='different files'):
        conversion.compare(tmp_path / 'ours', tmp_path / 'plain')


def test_different_outputs_are_an_error(monkeypatch, capsys):
    monkeypatch.setattr(conversion, 'compare', lambda *_: {'depth': 1.0, 'color': 0.0})
    assert conversion.main(['--frames', '1', '--repeats', '1']) == 1
    assert 'the outputs differ' in capsys.readouterr().err


def test_bad_arguments(capsys):
    with pytest.raises(SystemExit) as stopped:
        conversion.main(['--frames', '0'])
    assert stopped.value.code == 2
    assert 'at least 1' in capsys.readouterr().err
