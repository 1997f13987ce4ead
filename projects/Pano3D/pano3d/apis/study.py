"""Many trainings that differ in one thing: one process each, several at a time, finished ones are not repeated."""

from __future__ import annotations

import copy
import json
import os
import queue
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config
from tqdm import tqdm

CONFIG, METRICS, LOG = 'config.py', 'results/metrics.json', 'output.log'
TRAINING = 'training'
"""A folder of its own: a run writes its config there once more, with what the command line has changed."""


@dataclass(frozen=True)
class StudyRun:
    """One training and its evaluation.

    Args:
        name: of the variant; a folder name.
        seed: of the training.
        config: complete, for `tools/train.py` and `tools/test.py`.
    """

    name: str
    seed: int
    config: Config

    @property
    def place(self) -> Path:
        """Folder of the run below that of the study."""
        return Path(self.name, f'seed_{self.seed}')


class Study:
    """Runs trainings below a folder and reads what they found.

    Every run has `<out>/<name>/seed_<seed>/` with its `config.py`, the folders `training` and `evaluation`,
    `output.log`, and `results/metrics.json`, which says that it is done. An interrupted run goes on from its newest
    checkpoint.

    Args:
        out: folder of the study.
        tools: folder of `train.py` and `test.py`.
        jobs: runs at a time; None: one per GPU, or one without any. Each has a GPU, or its share of the cores, for
            itself.
    """

    def __init__(self, out: str | Path, *, tools: str | Path, jobs: int | None = None) -> None:
        if jobs is not None and jobs < 1:
            raise ValueError(f'`jobs` must be at least 1, got {jobs}')
        self.out = Path(out)
        self.tools = Path(tools)
        self.jobs = jobs or max(1, torch.cuda.device_count())

    def run(self, runs: Sequence[StudyRun], *, show_progress: bool = True) -> dict[tuple[str, int], str]:
        """Carry out what is not done yet; a run that fails does not stop the others.

        Returns:
            What went wrong, by name and seed of the run.

        Raises:
            ValueError: if a run has been begun with another config.
        """
        waiting = [run for run in runs if not self._begin(run)]
        slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(self.jobs):
            slots.put(slot)
        children: dict[int, subprocess.Popen] = {}
        failed = {}
        with (
            ThreadPoolExecutor(self.jobs) as pool,
            tqdm(total=len(runs), initial=len(runs) - len(waiting), unit='run', disable=not show_progress) as bar,
        ):
            pending = {pool.submit(self._carry_out, run, slots, children): run for run in waiting}
            try:
                for future in as_completed(pending):
                    run, problem = pending[future], future.result()
                    if problem:
                        failed[run.name, run.seed] = problem
                    bar.update()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for child in list(children.values()):
                    child.terminate()
                raise
        return failed

    def metrics(self, run: StudyRun) -> dict[str, float] | None:
        """What the evaluation of a finished run found; undefined values are left out. None if it is not done."""
        path = self.out / run.place / METRICS
        if not path.is_file():
            return None
        return {key: float(value) for key, value in json.loads(path.read_text()).items() if value is not None}

    def last_checkpoint(self, run: StudyRun) -> Path | None:
        """Where the newest checkpoint of a run lies."""
        pointer = self.out / run.place / TRAINING / 'last_checkpoint'
        return Path(pointer.read_text().strip()) if pointer.is_file() else None

    def _begin(self, run: StudyRun) -> bool:
        """Write the config of the run; whether it is done already."""
        folder = self.out / run.place
        folder.mkdir(parents=True, exist_ok=True)
        path, text = folder / CONFIG, run.config.pretty_text
        if path.is_file() and path.read_text() != text:
            raise ValueError(
                f'{path}: a run with other settings was begun here; choose another folder for this study, or remove it'
            )
        path.write_text(text)
        return (folder / METRICS).is_file()

    def _carry_out(
        self, run: StudyRun, slots: queue.SimpleQueue[int], children: dict[int, subprocess.Popen]
    ) -> str | None:
        """Train and evaluate in processes of their own; what went wrong."""
        slot = slots.get()
        try:
            folder = self.out / run.place
            checkpoint = self.last_checkpoint(run)
            resume = ['--resume'] if checkpoint else []
            train = [self.tools / 'train.py', folder / CONFIG, '--work-dir', folder / TRAINING, *resume]
            if self._call(train, folder / LOG, slot, children):
                return f'the training failed, see {folder / LOG}'
            test = [self.tools / 'test.py', folder / CONFIG, self.last_checkpoint(run)]
            test += ['--work-dir', folder / 'evaluation', '--out', (folder / METRICS).parent]
            if self._call(test, folder / LOG, slot, children):
                return f'the evaluation failed, see {folder / LOG}'
            return None
        finally:
            slots.put(slot)

    def _call(
        self, command: Sequence[str | Path | None], log: Path, slot: int, children: dict[int, subprocess.Popen]
    ) -> int:
        with open(log, 'a', encoding='utf-8') as file:
            child = subprocess.Popen(
                [sys.executable, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._resources(slot)},
            )
            children[slot] = child
            try:
                return child.wait()
            finally:
                del children[slot]

    def _resources(self, slot: int) -> Mapping[str, str]:
        if torch.cuda.is_available():
            return {'CUDA_VISIBLE_DEVICES': str(slot % torch.cuda.device_count())}
        return {'OMP_NUM_THREADS': str(max(1, (os.cpu_count() or 1) // self.jobs))}


def with_budget(config: Config, steps: int) -> Config:
    """A config whose training takes `steps` steps, its schedule stretched or squeezed to them.

    Only the end is validated and kept as a checkpoint beside what a resumption needs.

    Raises:
        ValueError: if `steps` is below 1, or the config does not train by steps.
    """
    if steps < 1:
        raise ValueError(f'`steps` must be at least 1, got {steps}')
    before = (config.get('train_cfg') or {}).get('max_iters')
    if not before:
        raise ValueError('`train_cfg.max_iters` is missing: the config does not train by steps')
    changed = copy.deepcopy(config)
    for scheduler in changed.param_scheduler:
        for key in ('begin', 'end', 'T_max'):
            if scheduler.get(key) is not None:
                scheduler[key] = round(scheduler[key] * steps / before)
        if scheduler.get('end') is not None:
            scheduler.end = max(scheduler.end, scheduler.get('begin', 0) + 1)
        if 'milestones' in scheduler:
            scheduler.milestones = [round(milestone * steps / before) for milestone in scheduler.milestones]
    changed.train_cfg.max_iters = steps
    changed.train_cfg.val_interval = steps + 1  # the study evaluates by itself
    changed.default_hooks.checkpoint.interval = min(changed.default_hooks.checkpoint.interval, max(1, steps // 4))
    changed.default_hooks.checkpoint.max_keep_ckpts = 1
    return changed
