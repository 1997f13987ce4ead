"""The head at full size on small pictures: what the figures of the benchmark rest on."""

import json
from pathlib import Path

import pytest
import torch
import views
from measurement import peak_memory
from mmengine.registry import DefaultScope

from pano3d.engine import load_config
from pano3d.registry import MODELS
from pano3d.structures import SceneSample


def test_memory_grows_with_the_views_and_not_faster(tmp_path, capsys):
    options = ['--size=64x64', '--views', '8', '16', '32', '--chunk-size=4', '--all-stages=8', '--repeats=1']
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


@pytest.mark.slow
def test_memory_of_online_prediction_grows_with_the_frames_and_not_faster():
    config = load_config(Path(__file__).parents[2] / 'configs/pano3d_must3r_demo.py').model
    config.backbone.max_keyframes = 4
    with DefaultScope.overwrite_default_scope('pano3d'):
        model = MODELS.build(config).eval()
    sample = SceneSample(metainfo=dict(scene_id='a', label_space='scannet20'))

    def peak(frames: int) -> int:
        images = torch.rand(1, frames, 3, 32, 48, generator=torch.Generator().manual_seed(0))
        return peak_memory(lambda: model(images, [sample], mode='predict'), torch.device('cpu'))

    peaks = [peak(frames) for frames in (8, 16, 32, 64)]  # the first one also makes tables that are kept
    assert peaks[3] > peaks[2] > peaks[1]
    assert peaks[3] - peaks[2] <= 2.1 * (peaks[2] - peaks[1])


def test_sizes_off_the_grid_are_refused(capsys):
    with pytest.raises(SystemExit) as exit_:
        views.main(['--size', '60x64'])
    assert exit_.value.code == 2
    assert 'multiples of 16 such as 384x512' in capsys.readouterr().err
