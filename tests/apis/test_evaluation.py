"""tools/test.py: every protocol at once, predictions in files, resumption, broken scenes, reports."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_scenes
import torch

from pano3d.apis import write_prediction
from pano3d.engine import load_config
from pano3d.evaluation.metric_key import MetricKey
from pano3d.registry import DATASETS, MODELS
from pano3d.structures import LabelSpace

TOOL = Path(__file__).parents[2] / 'tools' / 'test.py'
SPACE = LabelSpace.load('scannet20')
ERRORS = (
    'merged',
    'merged_of_covered',
    'AbsRel',
    'accuracy',
    'accuracy_median',
    'completion',
    'completion_median',
    'ATE',
)
MANY = 'pq_scene_mean,miou,ap_2d,depth_mvd,pose_auc'  # every kind of state


@pytest.fixture
def config(tmp_path) -> Path:
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'val.json').write_text('{}')
    (tmp_path / 'tiny.py').write_text(tiny_scenes.CONFIG.format(root=str(tmp_path / 'data')))
    return tmp_path / 'tiny.py'


@pytest.fixture
def checkpoint(config) -> Path:
    path = config.parent / 'blurred.pth'
    model = MODELS.get('BlurredTruth')(data_preprocessor=dict(type='pano3d.SceneDataPreprocessor'))
    torch.save(model.state_dict(), path)
    model.asked.clear()
    return path


@pytest.fixture
def predictions(config) -> Path:
    """Ground truth, written as predictions."""
    folder = config.parent / 'predictions'
    dataset = DATASETS.build(load_config(config).test_dataloader.dataset)
    for number in range(3):
        sample = tiny_scenes.as_predicted(dataset[number]['data_samples'])
        write_prediction(sample, SPACE, folder / f'{sample.scene_id}.npz')
    return folder


@pytest.fixture
def run(monkeypatch, config, tmp_path):
    """The tool, in this process; returns (exit code or message, metrics), and the folder is 'out' or the one given."""

    def run(*arguments: object, out: str = 'out', options: tuple[str, ...] = ()) -> tuple[object, dict[str, float]]:
        command = ['test.py', config, *arguments, '--work-dir', tmp_path / out]
        command += ['--cfg-options', *options] if options else []
        monkeypatch.setattr(sys, 'argv', [str(part) for part in command])
        code: object = 0
        try:
            runpy.run_path(str(TOOL), run_name='__main__')
        except SystemExit as exit:
            code = exit.code
        path = tmp_path / out / 'metrics.json'
        return code, json.loads(path.read_text()) if path.is_file() else {}

    return run


def expected_of_truth(key: str) -> float:
    name = key.split('/')[-1]
    return 0.0 if name.endswith(ERRORS) or name.startswith('RPE') else 1.0


def test_ground_truth_scores_exactly_one_in_every_protocol(run, predictions, capsys):
    code, metrics = run('--predictions', predictions, '--protocols', 'all')
    assert code == 0
    protocols = {'pq_scene_mean', 'pq_view', 'pq_scene_pooled', 'miou', 'ap_2d', 'depth_per_view', 'depth_mvd'}
    protocols |= {'points_acc_comp', 'pose_auc', 'pose_ate', 'miou_voxel', 'unite_mesh', 'unposed_ap', 'iggt'}
    protocols |= {'pq_points', 'miou_points', 'ap_points', 'ap_points_class_agnostic'}
    assert protocols <= {MetricKey.parse(key).protocol for key in metrics}
    assert all(str(MetricKey.parse(key)) == key for key in metrics)
    assert len(metrics) > 200
    # Labels are exact; geometry is aligned by a Sim(3) that is the identity up to rounding.
    off = {key: value for key, value in metrics.items() if value is None or abs(value - expected_of_truth(key)) > 1e-5}
    assert not off
    exact = [key for key in metrics if '/pixels/' in key or '/gt_depth/' in key or key.startswith('depth')]
    assert {metrics[key] for key in exact} == {0.0, 1.0}
    table = capsys.readouterr().out
    assert 'scannet20/unite_mesh/gt_depth/mIoU' in table and '3 of 3' in table
    assert 'scannet20/pq_points/gt_points  not applicable: `gt_panoptic` is not of points (N,) but (3, 40, 60)' in table


def test_the_mesh_is_one_whatever_protocol_looks_at_it(run, checkpoint):
    _, metrics = run(checkpoint, '--protocols', 'unite_mesh,ap_points_class_agnostic,miou_points')
    for place in ('gt_depth', 'own_geometry'):
        for name in ('AP', 'AP50', 'AP25'):
            ours, unite = (metrics[f'scannet20/{p}/{place}/{name}'] for p in ('ap_points_class_agnostic', 'unite_mesh'))
            assert ours == unite
    assert metrics['scannet20/miou_points/gt_depth/mIoU'] < 1


def test_scenes_without_a_mesh_are_said_to_be_without(run, predictions, monkeypatch):
    whole = tiny_scenes.TinyScenes.__getitem__

    def without_mesh(dataset, index):
        item = whole(dataset, index)
        if index != 1:
            item['data_samples'].set_metainfo({'mesh_path': None})
        return item

    monkeypatch.setattr(tiny_scenes.TinyScenes, '__getitem__', without_mesh)
    code, metrics = run('--predictions', predictions, '--protocols', 'pq_points,unite_mesh,miou')
    assert code == 0
    assert metrics['scannet20/pq_points/gt_depth/PQ'] == 1
    report = (predictions.parent / 'out' / 'report.md').read_text()
    assert '| scannet20/pq_points/gt_depth/PQ | 1.0000 | 1 of 3 |' in report
    assert '| scannet20/unite_mesh | 1 of 3 | `mesh_path` must be the mesh of the scene, got None;' in report


def test_the_report_has_every_key_and_needs_no_network(run, checkpoint, tmp_path):
    code, metrics = run(checkpoint, '--protocols', 'all', '--out', tmp_path / 'report')
    assert (code, metrics) == (0, {})  # all is in --out
    folder = tmp_path / 'report'
    metrics = json.loads((folder / 'metrics.json').read_text())
    html, markdown = (folder / 'report.html').read_text(), (folder / 'report.md').read_text()
    assert len(metrics) > 200
    for key, value in metrics.items():
        parsed, cell = MetricKey.parse(key), 'undefined' if value is None else f'{value:.4f}'
        if parsed.class_name is None:
            assert f'| {key} | {cell} | 3 of 3 |' in markdown
            assert f'<td>{key}</td><td class="number">{cell}</td>' in html
        else:
            [header] = [line for line in markdown.splitlines() if line.startswith('| class |')]
            [row] = [line for line in markdown.splitlines() if line.startswith(f'| {parsed.class_name} |')]
            column = header.rstrip(' |').split(' | ').index(key.rpartition('/')[0])
            assert row.rstrip(' |').split(' | ')[column] == cell
    assert 'http:' not in html and 'https:' not in html and '<script' not in html
    pictures = [line.partition('](')[2].rstrip(')') for line in markdown.splitlines() if line.startswith('![')]
    assert len(pictures) == 5 + 1 + 3  # scores of classes, confusion, scenes
    assert all((folder / picture).stat().st_size > 1000 for picture in pictures)
    assert html.count('data:image/png;base64,') == len(pictures)
    # Published figures beside ours, of the same key, in per cent.
    ours = [100 * metrics[f'scannet20/unite_mesh/gt_depth/{name}'] for name in ('mIoU', 'mAcc')]
    assert '| Pano3D (MUSt3R) | 65.3 | 76.6 |' in markdown
    assert f'| this evaluation | {ours[0]:.1f} | {ours[1]:.1f} |' in markdown
    assert 'arXiv 2606.14307' in markdown
    scenes = json.loads((folder / 'scenes.json').read_text())['scenes']
    assert list(scenes.values()) == sorted(scenes.values()) and len(scenes) == 3


def test_an_interrupted_evaluation_goes_on_and_ends_as_an_uninterrupted_one(run, checkpoint, monkeypatch):
    model = MODELS.get('BlurredTruth')
    monkeypatch.setattr(model, 'interrupt_at', 'scene0002_00')
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint, '--protocols', MANY)
    monkeypatch.setattr(model, 'interrupt_at', None)
    model.asked.clear()
    code, resumed = run(checkpoint, '--protocols', MANY)
    assert (code, model.asked) == (0, ['scene0002_00'])
    _, again = run(checkpoint, '--protocols', MANY)
    assert model.asked == ['scene0002_00']
    _, straight = run(checkpoint, '--protocols', MANY, out='other')
    assert model.asked == ['scene0002_00', 'scene0000_00', 'scene0001_00', 'scene0002_00']
    assert resumed == again == straight
    run(checkpoint, '--protocols', MANY, '--fresh')
    assert len(model.asked) == 7


def test_other_weights_other_protocols_and_other_data_are_evaluated_anew(run, checkpoint):
    model = MODELS.get('BlurredTruth')
    _, before = run(checkpoint)
    for change in ({'protocols': 'miou'}, {'data': 'num_scenes=2'}, {'weights': 0.5}):
        model.asked.clear()
        if 'weights' in change:
            state = torch.load(checkpoint, weights_only=True)
            torch.save({**state, 'share': torch.tensor(change['weights'])}, checkpoint)
        arguments = ['--protocols', change['protocols']] if 'protocols' in change else []
        options = [f'test_dataloader.dataset.{change["data"]}'] if 'data' in change else []
        _, after = run(checkpoint, *arguments, options=tuple(options))
        assert len(model.asked) == (2 if 'data' in change else 3)
        assert after != before


def test_protocols_are_chosen_by_name(run, checkpoint):
    _, metrics = run(checkpoint, '--protocols', 'miou,depth_mvd_pi3')
    assert {key.rpartition('/')[0].replace('/IoU', '') for key in metrics} == {
        'scannet20/miou/pixels',
        'depth_mvd_pi3/own_geometry',
    }
    code, _ = run(checkpoint, '--protocols', 'miou,pq_scene')
    assert str(code).startswith("test.py: there is no protocol 'pq_scene'; did you mean 'pq_scene_")


def test_a_broken_scene_is_reported_and_the_others_count(run, checkpoint, capsys):
    options = ('test_dataloader.dataset.broken=(0,)',)
    code, metrics = run(checkpoint, options=options)
    assert 'not everything could be evaluated' in code
    errors = capsys.readouterr().err
    assert 'scene number 0: everything: scene0000_00/depth: the file is damaged' in errors
    key = 'scannet20/pq_scene_mean/pixels/PQ'
    _, single = run(checkpoint, options=('test_dataloader.dataset.num_scenes=3',), out='whole')
    scenes = json.loads((checkpoint.parent / 'whole' / 'scenes.json').read_text())['scenes']
    assert metrics[key] == pytest.approx((scenes['scene0001_00'] + scenes['scene0002_00']) / 2, abs=1e-12)
    assert metrics[key] != single[key]


def test_without_any_good_scene_there_is_one_clear_error(run, checkpoint):
    code, metrics = run(checkpoint, options=('test_dataloader.dataset.broken=(0,1,2)',))
    assert 'none of the 3 scenes could be evaluated' in code and 'the file is damaged' in code
    assert not metrics


def test_when_every_scene_is_broken_it_does_not_go_through_all_of_them(run, checkpoint):
    options = (
        'test_dataloader.dataset.num_scenes=50',
        f'test_dataloader.dataset.broken={(*range(50),)}'.replace(' ', ''),
    )
    code, _ = run(checkpoint, options=options)
    assert 'none of the 5 scenes could be evaluated' in code


def test_a_scene_without_prediction_is_an_error_unless_it_shall_count_as_empty(run, predictions, capsys):
    (predictions / 'scene0001_00.npz').unlink()
    (predictions / 'scene0002_00.npz').rename(predictions / 'sceen0002_00.npz')
    key = 'scannet20/pq_scene_mean/pixels/PQ'
    code, metrics = run('--predictions', predictions, '--protocols', MANY)
    errors = capsys.readouterr().err
    assert 'not everything could be evaluated' in code and metrics[key] == 1
    assert 'no prediction of scene scene0001_00; write scene0001_00.npz' in errors
    assert 'sceen0002_00: a prediction of no scene of these data' in errors
    code, metrics = run('--predictions', predictions, '--protocols', MANY, '--missing-scenes', 'empty')
    errors = capsys.readouterr().err
    assert code == 0 and metrics[key] == pytest.approx(1 / 3)
    assert metrics['scannet20/miou/pixels/mAcc'] == pytest.approx(1 / 3)
    assert metrics['scannet20/miou/pixels/mIoU'] == pytest.approx(1 / 3)
    assert metrics['depth_mvd/own_geometry/tau'] == 1
    assert 'scene0001_00: no prediction, counted as empty' in errors
    counted = json.loads((predictions.parent / 'out' / 'scenes.json').read_text())['counted']
    assert (counted['scannet20/ap_2d/pixels'], counted['depth_mvd/own_geometry']) == (3, 1)


def test_predictions_without_geometry_are_scored_by_what_needs_none(run, predictions, capsys):
    for path in predictions.glob('*.npz'):
        with np.load(path) as arrays:
            np.savez(path, **{name: arrays[name] for name in ('category', 'instance', 'frame_ids')})
    code, metrics = run('--predictions', predictions, '--protocols', 'all')
    assert code == 0
    assert 'depth_mvd/own_geometry  not applicable: expected `pred_reconstruction`' in capsys.readouterr().out
    assert {key.split('/')[2] for key in metrics} == {'pixels'}
    assert metrics == {key: expected_of_truth(key) for key in metrics}
    code, _ = run('--predictions', predictions, '--protocols', 'miou,depth_mvd')
    assert 'not everything could be evaluated' in code


@pytest.mark.slow
def test_saved_predictions_score_as_the_model_does(run, checkpoint, tmp_path):
    _, direct = run(checkpoint, '--protocols', 'all', '--save-predictions', tmp_path / 'saved')
    code, again = run('--predictions', tmp_path / 'saved', '--protocols', 'all', out='again')
    assert code == 0 and again.keys() == direct.keys()
    for key, value in direct.items():
        assert again[key] == pytest.approx(value, abs=1e-5), key


def test_checkpoint_or_predictions(run, checkpoint, predictions, tmp_path, capsys):
    assert run()[0] == 2
    assert 'give either CHECKPOINT or --predictions' in capsys.readouterr().err
    assert run(checkpoint, '--predictions', predictions)[0] == 2
    assert 'no such checkpoint' in run(tmp_path / 'nothing.pth')[0]
    assert 'no such folder of predictions' in run('--predictions', tmp_path / 'nothing')[0]
    (tmp_path / 'empty').mkdir()
    assert 'expected <scene>.npz or <scene>/prediction.npz' in run('--predictions', tmp_path / 'empty')[0]


def test_what_training_started_from_is_not_evaluated(run, checkpoint):
    _, expected = run(checkpoint, '--protocols', 'miou', '--fresh')
    start = checkpoint.with_name('start.pth')
    state = torch.load(checkpoint, weights_only=True)
    torch.save({name: torch.full_like(value, 7.0) for name, value in state.items()}, start)
    for options in (f'load_from={start}', 'resume=True'):
        code, metrics = run(checkpoint, '--protocols', 'miou', '--fresh', options=(options,))
        assert (code, metrics) == (0, expected)
