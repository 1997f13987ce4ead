"""Which queries keep neighbours apart, in training on crowded made-up rooms: python tools/benchmarks/crowded.py."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from pano3d.apis.evaluation import evaluate
from pano3d.conversion import convert_scannet
from pano3d.conversion.synthetic_rooms import RecordingOptions, write_rooms
from pano3d.engine import configure_processes, load_config
from pano3d.models import LayoutBaseline
from pano3d.registry import DATASETS

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'crowded'
BASELINE = 'k100'
BOTTOM = 'layout_baseline'
VARIANTS = (BASELINE, 'k200', 'k400', 'two_stage', 'anchored', 'two_stage_anchored')
ROOMS = RecordingOptions(num_frames=10, class_tint=0.75)
COLUMNS = {
    'PQ': ('scannet20/pq_scene_mean/pixels/PQ', 1),
    'RQ': ('scannet20/pq_scene_mean/pixels/RQ', 1),
    'PQ things': ('scannet20/pq_scene_mean/pixels/PQ_things', 1),
    'merged': ('scannet20/merged_instances/pixels/merged', -1),
    'covered': ('scannet20/merged_instances/pixels/covered', 1),
    'merged of covered': ('scannet20/merged_instances/pixels/merged_of_covered', -1),
}
"""Heading -> key, and whether larger (1) or smaller (-1) is better."""


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Train the configs of configs/crowded on crowded made-up rooms and compare them on others. All '
        'runs start from one network, trained once on the same rooms with learned queries, whose queries are thrown '
        'away; the geometry stays frozen, and each has the same steps. A run whose results are in OUT is not repeated.',
        epilog='Exit status: 0 if all runs succeeded, 1 if not, 2 on bad arguments.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('--out', type=Path, default=Path('work_dirs/crowded'), help='results, one folder per run')
    parser.add_argument('--data', type=Path, default=Path('data/crowded_rooms'), help='rooms; made if missing')
    parser.add_argument('--variants', nargs='+', choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--train-rooms', type=int, default=120, metavar='N')
    parser.add_argument('--held-out-rooms', type=int, default=32, metavar='N')
    parser.add_argument('--start-steps', type=int, default=500, metavar='N', help='of the common start')
    parser.add_argument(
        '--from',
        dest='origin',
        type=Path,
        metavar='CHECKPOINT',
        help='what the common start begins with: the demo, say',
    )
    parser.add_argument('--steps', type=int, default=300, metavar='N', help='of each run')
    parser.add_argument('--jobs', type=int, default=2, metavar='N', help='runs at the same time, one thread each')
    parser.add_argument('--only', nargs=2, metavar=('VARIANT', 'SEED'), help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if min(args.train_rooms, args.held_out_rooms, args.start_steps, args.steps, args.jobs) < 1:
        parser.error('all counts must be at least 1')
    return args


def make_rooms(data: Path, *, train: int, held_out: int, workers: int) -> None:
    """Rooms of seed 10 to train on and of seed 11 to test on; those that are there are kept."""
    for name, seed, sizes in (('train', 10, (train, 0)), ('held_out', 11, (0, held_out))):
        raw = data / 'raw' / name
        write_rooms(raw, train=sizes[0], val=sizes[1], seed=seed, options=ROOMS, crowded=True, num_workers=workers)
        summary = convert_scannet(raw, data / name, frame_skip=1, num_workers=workers)
        if summary.failed:
            raise RuntimeError(f'conversion of made-up rooms failed: {summary.failed}')


def start_file(args: argparse.Namespace) -> Path:
    """The checkpoint of the common start."""
    origin = 'nothing' if args.origin is None else args.origin.stem
    return args.out / f'start_{origin}_{args.train_rooms}_rooms_{args.start_steps}_steps.pth'


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """What decides the result of a run besides its variant and seed."""
    names = ('train_rooms', 'held_out_rooms', 'start_steps', 'steps')
    return {name: getattr(args, name) for name in names} | {'from': None if args.origin is None else str(args.origin)}


def run_config(args: argparse.Namespace, variant: str, seed: int, *, start: bool) -> Config:
    """The config of a run, or of the common start."""
    options: dict[str, Any] = {
        'randomness.seed': seed,
        'default_hooks.logger.interval': 50,
        'train_dataloader.dataset.data_root': str(args.data / 'train'),
        'test_dataloader.dataset.data_root': str(args.data / 'held_out'),
        'default_hooks.checkpoint.save_last': False,
        'default_hooks.checkpoint.interval': 10**9,
    }
    if start:
        options['load_from'] = None if args.origin is None else str(args.origin)
    else:
        frozen = {'frozen_encoder': True, 'frozen_geometry': True, 'joint_loss.geometry': None}
        options |= {f'model.{key}': value for key, value in frozen.items()} | {'load_from': str(start_file(args))}
    config = load_config(CONFIGS / f'{variant}.py', options)
    steps = args.start_steps if start else args.steps
    warm_up = max(steps // 10, 1)
    config.param_scheduler = [
        dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=warm_up),
        dict(type='CosineAnnealingLR', by_epoch=False, begin=warm_up, end=steps, eta_min_ratio=0.02),
    ]
    config.train_cfg = dict(type=config.train_cfg.type, max_iters=steps)
    # No validation on the way: the held-out rooms are looked at once.
    config.val_cfg = config.val_dataloader = config.val_evaluator = None
    configure_processes(config, 'none')
    return config


def train_start(args: argparse.Namespace) -> None:
    """The common start: all of the network, without its queries."""
    config = run_config(args, BASELINE, 0, start=True)
    config.work_dir = str(args.out / 'start')
    state = Runner.from_cfg(config).train().state_dict()
    kept = {name: value for name, value in state.items() if not name.startswith('head.decoder.query_')}
    torch.save({'state_dict': kept}, start_file(args))


def train_run(args: argparse.Namespace, variant: str, seed: int) -> None:
    """One run, and its results in a file."""
    folder = args.out / f'{variant}_{seed}'
    config = run_config(args, variant, seed, start=False)
    config.work_dir = str(folder)
    begin = time.perf_counter()
    model = Runner.from_cfg(config).train()
    seconds = time.perf_counter() - begin
    metrics = evaluate(config, model, folder / 'evaluation')
    result = {'settings': settings(args), 'training_seconds': seconds, 'metrics': metrics}
    (folder / 'result.json').write_text(json.dumps(result, indent=2) + '\n')


def rate_layout(args: argparse.Namespace) -> None:
    """What a prediction scores that never looks at the pictures."""
    config = run_config(args, BASELINE, 0, start=True)
    pipeline = config.test_dataloader.dataset.pipeline
    with DefaultScope.overwrite_default_scope(config.default_scope):
        scenes = DATASETS.build({**config.train_dataloader.dataset, 'pipeline': pipeline})
        processor = config.model.data_preprocessor
        size = tuple(scenes[0]['inputs'].shape[-2:])
        model = LayoutBaseline(label_space=config.label_space, image_size=size, data_preprocessor=processor)
    model.fit(scenes[index]['data_samples'].unpacked() for index in range(len(scenes)))
    folder = args.out / f'{BOTTOM}_0'
    metrics = evaluate(config, model, folder / 'evaluation')
    result = {'settings': settings(args), 'training_seconds': 0.0, 'metrics': metrics}
    (folder / 'result.json').write_text(json.dumps(result, indent=2) + '\n')


def finished(args: argparse.Namespace, variant: str, seed: int) -> dict[str, Any] | None:
    """The results of a run with these settings."""
    path = args.out / f'{variant}_{seed}' / 'result.json'
    result = json.loads(path.read_text()) if path.is_file() else None
    return result if result is not None and result['settings'] == settings(args) else None


def in_process(args: argparse.Namespace, variant: str, seed: str) -> bool:
    """Do one run in a process of its own, with one thread; whether it succeeded."""
    command = [sys.executable, __file__, '--out', args.out, '--data', args.data, '--only', variant, seed]
    for name, value in settings(args).items():
        command += [] if value is None else [f'--{name.replace("_", "-")}', str(value)]
    log = args.out / f'{variant}_{seed}.log'
    begin = time.perf_counter()
    with log.open('w') as file:
        # Nothing else runs beside the start.
        environment = {**os.environ, 'OMP_NUM_THREADS': str(args.jobs if variant == 'start' else 1)}
        done = subprocess.run(
            [str(part) for part in command], stdout=file, stderr=subprocess.STDOUT, env=environment, check=False
        )
    end = f'{time.perf_counter() - begin:.0f} s' if done.returncode == 0 else f'failed, see {log}'
    print(f'{variant} {seed}: {end}', flush=True)
    return done.returncode == 0


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: mean and standard deviation over seeds of every column, and the training time."""
    lines = [
        f'| queries | seeds | {" | ".join(COLUMNS)} | training, s |',
        f'| --- | --- | {"--- | " * len(COLUMNS)}--- |',
    ]
    for variant, runs in results.items():
        values = [[run['metrics'][key] for run in runs] for key, _ in COLUMNS.values()]
        seconds = mean(run['training_seconds'] for run in runs)
        cells = [spread(column) for column in values]
        lines.append(f'| {variant} | {len(runs)} | {" | ".join(cells)} | {seconds:.0f} |')
    return '\n'.join(lines)


def spread(values: Sequence[float]) -> str:
    return f'{mean(values):.3f}' + (f' ± {stdev(values):.3f}' if len(values) > 1 else '')


def verdicts(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """For every variant and column: is its mean beyond the baseline's by more than the spreads of the two together?"""
    lines = []
    for variant, runs in results.items():
        if variant in (BASELINE, BOTTOM) or min(len(runs), len(results.get(BASELINE, []))) < 2:
            continue
        better, worse = [], []
        for name, (key, sign) in COLUMNS.items():
            own, other = ([run['metrics'][key] for run in group] for group in (runs, results[BASELINE]))
            difference = sign * (mean(own) - mean(other))
            if abs(difference) > stdev(own) + stdev(other):
                (better if difference > 0 else worse).append(name)
        lines.append(
            f'{variant} against {BASELINE}: better in {", ".join(better) or "nothing"}; '
            f'worse in {", ".join(worse) or "nothing"}'
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.only is not None:
        variant, seed = args.only
        parts = {'start': train_start, BOTTOM: rate_layout}
        parts[variant](args) if variant in parts else train_run(args, variant, int(seed))
        return 0
    make_rooms(args.data, train=args.train_rooms, held_out=args.held_out_rooms, workers=args.jobs)
    if not start_file(args).is_file() and not in_process(args, 'start', '0'):
        return 1
    runs = [(BOTTOM, 0)] + [(variant, seed) for seed in args.seeds for variant in args.variants]
    with ThreadPoolExecutor(args.jobs) as pool:
        waiting = [(variant, str(seed)) for variant, seed in runs if finished(args, variant, seed) is None]
        succeeded = all(list(pool.map(lambda run: in_process(args, *run), waiting)))
    found: dict[str, list[dict[str, Any]]] = {}
    for variant, seed in runs:
        if (result := finished(args, variant, seed)) is not None:
            found.setdefault(variant, []).append(result)
    print('\n'.join([table(found), '', *verdicts(found)]))
    return 0 if succeeded else 1


if __name__ == '__main__':
    sys.exit(main())
