"""The head at full size on small pictures: what the figures of the benchmark rest on."""

import json

import pytest
import views


def test_memory_grows_with_the_views_and_not_faster(tmp_path, capsys):
    options = [
        '--size',
        '64x64',
        '--views',
        '8',
        '16',
        '32',
        '--chunk-size',
        '4',
        '--all-stages',
        '8',
        '--repeats',
        '1',
    ]
    assert views.main([*options, '--json', str(tmp_path / 'out.json')]) == 0
    results = json.loads((tmp_path / 'out.json').read_text())['results']
    assert [result['mask_bytes'] for result in results] == [4 * 100 * count * 16 * 16 for count in (8, 16, 32)]
    peaks = [result['peak_bytes']['prediction'] for result in results]
    assert all(peak > result['mask_bytes'] for peak, result in zip(peaks, results, strict=True))
    assert peaks[2] - peaks[1] <= 2.1 * (peaks[1] - peaks[0])
    assert results[0]['peak_bytes']['all stages'] > 2 * peaks[0]
    assert 'all stages' not in results[1]['peak_bytes']
    lines = capsys.readouterr().out.splitlines()
    assert [line.split('|')[1].strip() for line in lines[2:5]] == ['8', '16', '32']


def test_sizes_off_the_grid_are_refused(capsys):
    with pytest.raises(SystemExit) as exit_:
        views.main(['--size', '60x64'])
    assert exit_.value.code == 2
    assert 'multiples of 16 such as 384x512' in capsys.readouterr().err
