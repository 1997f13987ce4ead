"""tools/test.py in processes of its own: killed and started again, and two that share the scenes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_scenes
import torch

from pano3d.registry import MODELS

HERE = Path(__file__).parent
PROTOCOLS = (
    'pq_scene_mean,pq_view,pq_scene_pooled,merged_instances,miou,miou_panoptic,ap_2d,depth_per_view,depth_mvd,'
    'depth_mvd_pi3,points_acc_comp,pose_auc,pose_ate,miou_voxel,unite_mesh,pq_points,miou_points,ap_points,iggt'
)
SCRIPT = """
import importlib.util, os, runpy, sys, time
spec = importlib.util.spec_from_file_location('tiny_scenes', {scenes!r})
tiny_scenes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny_scenes)
predict = tiny_scenes.BlurredTruth.forward
def forward(model, inputs, data_samples, mode='tensor'):
    if data_samples[0].scene_id == os.environ.get('HANG_AT'):
        time.sleep(600)
    return predict(model, inputs, data_samples, mode)
tiny_scenes.BlurredTruth.forward = forward
runpy.run_path({tool!r}, run_name='__main__')
"""


@pytest.fixture
def command(tmp_path) -> list[str]:
    """Arguments of Python for an evaluation without a folder to write to."""
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'val.json').write_text('{}')
    (tmp_path / 'tiny.py').write_text(tiny_scenes.CONFIG.format(root=str(tmp_path / 'data')))
    model = MODELS.get('BlurredTruth')(data_preprocessor=dict(type='pano3d.SceneDataPreprocessor'))
    torch.save(model.state_dict(), tmp_path / 'blurred.pth')
    tool = HERE.parents[1] / 'tools' / 'test.py'
    (tmp_path / 'run.py').write_text(SCRIPT.format(scenes=str(HERE / 'tiny_scenes.py'), tool=str(tool)))
    files = [str(tmp_path / name) for name in ('run.py', 'tiny.py', 'blurred.pth')]
    return [*files, '--protocols', PROTOCOLS]


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_and_ends_as_that_of_two_processes(command, tmp_path):
    killed, shared = tmp_path / 'killed', tmp_path / 'shared'
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    alone = [sys.executable, *command, '--work-dir', str(killed)]
    process = subprocess.Popen(
        alone, env={**environment, 'HANG_AT': 'scene0001_00'}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (states := list(killed.glob('scene_states/*/000000.npz'))):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (killed / 'metrics.json').exists()
    written = states[0].stat().st_mtime_ns

    subprocess.run(alone, env=environment, check=True, capture_output=True, timeout=300)
    assert states[0].stat().st_mtime_ns == written  # not evaluated again
    assert len(list(states[0].parent.glob('*.npz'))) == 3

    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    two = ['-m', 'torch.distributed.run', '--nproc_per_node=2', f'--master_port={port}', *command]
    subprocess.run(
        [sys.executable, *two, '--launcher', 'pytorch', '--work-dir', str(shared)],
        env=environment,
        check=True,
        capture_output=True,
        timeout=300,
    )
    resumed, together = (json.loads((folder / 'metrics.json').read_text()) for folder in (killed, shared))
    assert len(resumed) > 150
    assert resumed == together
