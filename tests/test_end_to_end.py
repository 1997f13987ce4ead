"""The whole path through the command line: rooms, conversion, training, evaluation, exact resumption."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / 'configs' / 'pano3d_vggt_demo.py'
STEPS = 20

pytestmark = pytest.mark.slow


def run(tool: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A tool of the repository with one thread, so that sums are added in one order."""
    interpreter = 'bash' if tool.endswith('.sh') else sys.executable
    command = [interpreter, str(ROOT / 'tools' / tool), *map(str, arguments)]
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHON': sys.executable, 'PORT': str(port)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if check and done.returncode:
        raise AssertionError(f'{tool} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}')
    return done


@pytest.fixture(scope='module')
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('rooms')
    run('make_synthetic_scannet.py', folder / 'raw', '--scenes', 5, '--val', 3, '--seed', 3, '--frames', 8)
    run('prepare_scannet.py', folder / 'raw', folder / 'scenes', '--frame-skip', 1)
    return folder / 'scenes'


def options(scenes: Path) -> list[str]:
    return [
        '--cfg-options',
        *(f'{loader}_dataloader.dataset.data_root={scenes}' for loader in ('train', 'val', 'test')),
        f'train_cfg.max_iters={STEPS}',
        f'train_cfg.val_interval={STEPS // 2}',
        f'default_hooks.checkpoint.interval={STEPS // 2}',
        'default_hooks.logger.interval=5',
    ]


@pytest.fixture(scope='module')
def trained(scenes) -> Path:
    work_dir = scenes.parent / 'straight'
    run('train.py', CONFIG, '--work-dir', work_dir, *options(scenes))
    return work_dir


def state(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True, map_location='cpu')['state_dict']


def test_a_resumed_run_continues_exactly_as_the_uninterrupted_one(scenes, trained):
    half = trained / f'iter_{STEPS // 2}.pth'
    resumed = scenes.parent / 'resumed'
    run('train.py', CONFIG, '--work-dir', resumed, '--resume', half, *options(scenes))
    straight, continued = (state(folder / f'iter_{STEPS}.pth') for folder in (trained, resumed))
    assert straight.keys() == continued.keys()
    before = state(half)
    assert any(not torch.equal(before[name], straight[name]) for name in straight)
    for name, value in straight.items():
        assert torch.equal(value, continued[name]), name


def test_both_tasks_are_trained_and_logged(trained):
    [scalars] = trained.glob('*/vis_data/scalars.json')
    records = [json.loads(line) for line in scalars.read_text().splitlines()]
    steps = [record for record in records if 'loss' in record]
    for task in ('geometry', 'segmentation'):
        assert steps[-1][f'raw_{task}'] < steps[0][f'raw_{task}'], task
    weighted = sum(value for name, value in steps[0].items() if name.startswith('loss_'))
    assert steps[0]['loss'] == pytest.approx(weighted, rel=1e-4)
    raw = 10 * steps[0]['raw_geometry'] + steps[0]['raw_segmentation']
    assert steps[0]['loss'] == pytest.approx(raw, rel=1e-4)


def test_evaluation_writes_every_metric_and_agrees_with_training(scenes, trained):
    evaluated = scenes.parent / 'evaluated'
    done = run('test.py', CONFIG, trained / f'iter_{STEPS}.pth', '--work-dir', evaluated, *options(scenes))
    metrics = json.loads((evaluated / 'metrics.json').read_text())
    assert done.stdout.strip().endswith('metrics.json')
    [scalars] = trained.glob('*/vis_data/scalars.json')
    last = [json.loads(line) for line in scalars.read_text().splitlines()][-1]
    for key in (
        'scannet20/pq_scene_mean/pixels/PQ',
        'scannet20/miou/pixels/mIoU',
        'depth_per_view/own_geometry/AbsRel',
        'depth_per_view/own_geometry/tau',
    ):
        assert metrics[key] == pytest.approx(last[key], abs=1e-6)


def test_two_processes_train_and_measure_what_one_measures(scenes):
    work_dir, alone = scenes.parent / 'two', scenes.parent / 'one'
    steps = ['train_cfg.max_iters=2', 'train_cfg.val_interval=2']
    run('dist_train.sh', CONFIG, 2, '--work-dir', work_dir, *options(scenes), *steps)
    run('test.py', CONFIG, work_dir / 'iter_2.pth', '--work-dir', alone, *options(scenes))
    [scalars] = work_dir.glob('*/vis_data/scalars.json')
    together = [json.loads(line) for line in scalars.read_text().splitlines()][-1]
    metrics = json.loads((alone / 'metrics.json').read_text())
    assert len(metrics) > 10
    for key, value in metrics.items():
        assert value == pytest.approx(together[key], abs=1e-6), key
    shared = scenes.parent / 'two_tested'
    run('dist_test.sh', CONFIG, work_dir / 'iter_2.pth', 2, '--work-dir', shared, *options(scenes))
    assert json.loads((shared / 'metrics.json').read_text()) == metrics


def test_a_checkpoint_goes_on_with_another_number_of_processes(scenes, trained):
    last = trained / f'iter_{STEPS}.pth'
    without_validation = ['train_cfg.val_begin=100', 'default_hooks.checkpoint.interval=1']
    two, one = scenes.parent / 'one_to_two', scenes.parent / 'two_to_one'
    steps = [f'train_cfg.max_iters={STEPS + 1}', *without_validation]
    run('dist_train.sh', CONFIG, 2, '--work-dir', two, '--resume', last, *options(scenes), *steps)
    steps = [f'train_cfg.max_iters={STEPS + 2}', *without_validation]
    resume = two / f'iter_{STEPS + 1}.pth'
    run('train.py', CONFIG, '--work-dir', one, '--resume', resume, *options(scenes), *steps)
    end = torch.load(one / f'iter_{STEPS + 2}.pth', weights_only=True)
    assert {int(entry['step']) for entry in end['optimizer']['state'].values()} == {STEPS + 2}
    assert end['state_dict'].keys() == state(last).keys()
    changed = [name for name, value in state(last).items() if not torch.equal(value, end['state_dict'][name])]
    assert changed and all(end['state_dict'][name].isfinite().all() for name in changed)


def test_a_checkpoint_of_another_model_is_one_clear_error(scenes, trained):
    done = run(
        'test.py',
        CONFIG,
        trained / f'iter_{STEPS}.pth',
        *options(scenes),
        'model.label_space=scannet200',
        'model.head.classifier.num_classes=200',
        check=False,
    )
    assert done.returncode != 0
    assert 'head.classifier.linear.weight: expected (201, 128), found (21, 128)' in done.stderr
    assert 'another label space' in done.stderr
    assert 'Traceback' not in done.stderr


def test_without_data_and_weights_training_stops_at_once_and_says_what_to_do():
    done = run('train.py', ROOT / 'configs' / 'pano3d_vggt_scannet.py', check=False)
    assert done.returncode != 0
    assert 'Traceback' not in done.stderr
    for part in (
        'data/scannet/train.json',
        'prepare_scannet.py',
        'checkpoints/vggt_1b',
        'checkpoints/mask2former_r50',
        'model.head.decoder.init_cfg.checkpoint=PATH',
        'make demo',
        'terms of use',
    ):
        assert part in done.stderr


def test_an_unknown_option_is_one_clear_error():
    done = run('train.py', CONFIG, '--cfg-options', 'train_cfg.max_iter=3', check=False)
    assert done.returncode != 0
    assert "did you mean 'max_iters'" in done.stderr
    assert 'Traceback' not in done.stderr
