"""Studies: what is done is not repeated, what was interrupted goes on, what fails does not stop the rest."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from mmengine.config import Config

from pano3d.apis.study import Study, StudyRun, with_budget

TRAIN = """
import os, sys, time
from pathlib import Path
config, folder = sys.argv[1], Path(sys.argv[3])
text = Path(config).read_text()
folder.mkdir(exist_ok=True)
(folder / Path(config).name).write_text('what the runner writes')
with open(folder / 'calls', 'a') as file:
    file.write(f"{'resumed' if '--resume' in sys.argv else 'fresh'} {os.environ['OMP_NUM_THREADS']}\\n")
checkpoint = folder / 'iter_1.pth'
checkpoint.write_text('')
(folder / 'last_checkpoint').write_text(str(checkpoint))
if 'breaks' in text:
    sys.exit(3)
while 'hangs' in text:
    time.sleep(0.05)
"""
TEST = """
import json, sys
from pathlib import Path
out = Path(sys.argv[sys.argv.index('--out') + 1])
out.mkdir(parents=True)
(out / 'metrics.json').write_text(json.dumps({'PQ': len(Path(sys.argv[1]).read_text()), 'void': None}))
"""


@pytest.fixture
def tools(tmp_path):
    folder = tmp_path / 'tools'
    folder.mkdir()
    (folder / 'train.py').write_text(TRAIN)
    (folder / 'test.py').write_text(TEST)
    return folder


def a_run(name: str, seed: int = 0, **settings) -> StudyRun:
    return StudyRun(name, seed, Config(dict(seed=seed, **settings)))


def calls(study: Study, run: StudyRun) -> list[str]:
    return (study.out / run.place / 'training/calls').read_text().splitlines()


def test_runs_are_carried_out_once(tools, tmp_path):
    study = Study(tmp_path / 'out', tools=tools, jobs=2)
    runs = [a_run('one'), a_run('one', 1), a_run('two')]
    assert study.metrics(runs[0]) is None
    assert study.run(runs, show_progress=False) == {}
    again = study.run(runs, show_progress=False)
    assert again == {}
    for run in runs:
        assert study.metrics(run) == {'PQ': float(len(run.config.pretty_text))}
        assert calls(study, run) == [f'fresh {max(1, os.cpu_count() // 2)}']


def test_a_broken_run_does_not_stop_the_others_and_goes_on_later(tools, tmp_path):
    study = Study(tmp_path / 'out', tools=tools, jobs=1)
    runs = [a_run('bad', note='breaks'), a_run('good')]
    failed = study.run(runs, show_progress=False)
    assert list(failed) == [('bad', 0)] and 'output.log' in failed['bad', 0]
    assert study.metrics(runs[0]) is None and study.metrics(runs[1]) is not None
    (tools / 'train.py').write_text(TRAIN.replace('breaks', 'never'))
    assert study.run(runs, show_progress=False) == {}
    assert [line.split()[0] for line in calls(study, runs[0])] == ['fresh', 'resumed']
    assert len(calls(study, runs[1])) == 1


@pytest.mark.slow
def test_an_interruption_ends_the_training_too(tools, tmp_path):
    script = textwrap.dedent(
        f"""
        from mmengine.config import Config
        from pano3d.apis.study import Study, StudyRun
        study = Study({str(tmp_path / 'out')!r}, tools={str(tools)!r}, jobs=1)
        study.run([StudyRun('slow', 0, Config(dict(note='hangs')))], show_progress=False)
        """
    )
    child = subprocess.Popen([sys.executable, '-c', script], stderr=subprocess.PIPE, text=True)
    started = tmp_path / 'out' / 'slow' / 'seed_0' / 'training' / 'last_checkpoint'
    deadline = time.monotonic() + 120
    while not started.is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode != 0 and 'KeyboardInterrupt' in errors
    left = subprocess.run(['pgrep', '-f', str(tools / 'train.py')], capture_output=True, text=True).stdout
    assert left == ''


def test_other_settings_need_another_folder(tools, tmp_path):
    study = Study(tmp_path / 'out', tools=tools, jobs=1)
    study.run([a_run('one')], show_progress=False)
    with pytest.raises(ValueError, match='other settings'):
        study.run([a_run('one', note='changed')], show_progress=False)


def test_jobs_below_one_are_refused(tmp_path):
    with pytest.raises(ValueError, match='jobs'):
        Study(tmp_path, tools=tmp_path, jobs=0)


def a_schedule() -> Config:
    return Config(
        dict(
            train_cfg=dict(max_iters=1000, val_interval=100),
            param_scheduler=[
                dict(type='LinearLR', begin=0, end=100),
                dict(type='MultiStepLR', milestones=[300, 500]),
                dict(type='CosineAnnealingLR', begin=100, end=1000, T_max=900),
            ],
            default_hooks=dict(checkpoint=dict(interval=1000, max_keep_ckpts=5)),
        )
    )


def test_a_budget_scales_the_whole_schedule():
    before = a_schedule()
    config = with_budget(before, 200)
    assert config.train_cfg.max_iters == 200
    assert config.train_cfg.val_interval > 200
    linear, steps, cosine = config.param_scheduler
    assert (linear.begin, linear.end) == (0, 20)
    assert steps.milestones == [60, 100]
    assert (cosine.begin, cosine.end, cosine.T_max) == (20, 200, 180)
    assert config.default_hooks.checkpoint.interval == 50
    assert before.train_cfg.max_iters == 1000 and before.param_scheduler[0].end == 100


def test_a_schedule_of_a_few_steps_is_still_one():
    linear, _, cosine = with_budget(a_schedule(), 4).param_scheduler
    assert linear.end > linear.begin and cosine.end > cosine.begin


def test_a_config_without_steps_is_refused():
    with pytest.raises(ValueError, match='max_iters'):
        with_budget(Config(dict(train_cfg=None)), 5)
    with pytest.raises(ValueError, match='steps'):
        with_budget(a_schedule(), 0)


def test_metrics_are_plain_json(tools, tmp_path):
    study = Study(tmp_path / 'out', tools=tools, jobs=1)
    study.run([a_run('one')], show_progress=False)
    assert json.loads((study.out / 'one/seed_0/results/metrics.json').read_text())['void'] is None
