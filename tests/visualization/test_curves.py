"""Training curves: files of a resumed run become one curve."""

import json

import numpy as np
import pytest
from mmengine.visualization import LocalVisBackend
from PIL import Image

from pano3d.visualization import save_training_curves
from pano3d.visualization.curves import draw_curves, group_curves, read_scalars


def train(step: int, value: float) -> dict:
    terms = {'loss_geometry_depth': value, 'loss_segmentation_class': 2 * value}
    return {'lr': 1e-4, 'loss': 3 * value, **terms, 'time': 0.5, 'iter': step, 'step': step}


def validation(step: int, value: float) -> dict:
    return {'scannet20/pq/pixels/PQ': value, 'scannet20/pq/pixels/SQ': 1.0, 'time': 0.5, 'step': step}


def write(work_dir, run: str, records: list[dict], tail: str = ''):
    """As a training run does it: through mmengine's own backend."""
    backend = LocalVisBackend(save_dir=str(work_dir / run / 'vis_data'))
    for record in records:
        backend.add_scalars(dict(record), step=record['step'])
    path = work_dir / run / 'vis_data' / 'scalars.json'
    with path.open('a') as file:
        file.write(tail)
    return path


def test_a_resumed_run_replaces_what_it_repeats(tmp_path):
    first = [train(10, 1.0), train(20, 0.9), validation(20, 0.1), train(30, 0.8), validation(30, 0.2)]
    second = [train(30, 0.5), validation(30, 0.3), train(40, 0.4)]
    files = [write(tmp_path, '20250101_000000', first), write(tmp_path, '20250102_000000', second)]
    curves = read_scalars(files)
    assert curves['loss_geometry_depth'] == [(10, 1.0), (20, 0.9), (30, 0.5), (40, 0.4)]
    assert curves['scannet20/pq/pixels/PQ'] == [(20, 0.1), (30, 0.3)]
    assert 'step' not in curves and 'iter' not in curves


def test_an_evaluation_run_removes_nothing(tmp_path):
    files = [
        write(tmp_path, '20250101_000000', [train(10, 1.0), train(20, 0.9)]),
        write(tmp_path, '20250102_000000', [validation(0, 0.7)]),
    ]
    assert read_scalars(files)['loss'] == [(10, 3.0), (20, pytest.approx(2.7))]


def test_an_unfinished_last_line_is_ignored_but_a_broken_one_is_named(tmp_path):
    path = write(tmp_path, '20250101_000000', [train(10, 1.0)], tail='{"loss": 0.')
    assert read_scalars([path])['loss'] == [(10, 3.0)]
    with path.open('a') as file:
        file.write('\n' + json.dumps(train(20, 0.9)) + '\n')
    with pytest.raises(ValueError, match=r'scalars\.json: record 2'):
        read_scalars([path])


def test_panels_are_total_tasks_and_metric_groups():
    curves = {name: [(1, 1.0)] for name in {**train(1, 1.0), **validation(1, 1.0)} if name not in ('step', 'iter')}
    panels = group_curves(curves)
    assert {title: list(labels) for title, labels in panels.items()} == {
        'total loss': ['loss'],
        'geometry loss, weighted': ['depth'],
        'segmentation loss, weighted': ['class'],
        'scannet20/pq/pixels': ['PQ', 'SQ'],
    }


def test_drawn_lines_carry_the_values():
    figure = draw_curves({'total loss': {'loss': [(10, 3.0), (20, 1.5)]}})
    [axes] = figure.axes
    [line] = axes.lines
    np.testing.assert_array_equal(line.get_xydata(), [[10, 3.0], [20, 1.5]])
    assert axes.get_yscale() == 'log'


def test_long_curves_are_smoothed_without_bias():
    figure = draw_curves(
        {'pq': {'PQ': [(step, 5.0) for step in range(200)], 'SQ': [(s, float(s % 2)) for s in range(200)]}}
    )
    smooth = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    np.testing.assert_allclose(smooth['PQ'], 5.0)
    np.testing.assert_allclose(smooth['SQ'][10:-10], 0.5)


def test_a_picture_is_written(tmp_path):
    write(tmp_path, '20250101_000000', [train(10, 1.0), validation(10, 0.2), train(20, 0.5)])
    path = save_training_curves(tmp_path, tmp_path / 'curves.png')
    assert min(Image.open(path).size) > 300


def test_no_scalars_is_refused(tmp_path):
    with pytest.raises(ValueError, match='work directory of a training run'):
        save_training_curves(tmp_path, tmp_path / 'curves.png')
    write(tmp_path, '20250101_000000', [{'lr': 1.0, 'step': 1}])
    with pytest.raises(ValueError, match='no loss and no metric'):
        save_training_curves(tmp_path, tmp_path / 'curves.png')
