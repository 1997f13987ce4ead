"""Settle whether joint training helps both tasks: `python tools/mutual_benefit.py CONFIG --seeds 3`.

Trains the regimes frozen geometry, geometry only, segmentation only and joint from one start, with the same number of
steps and the same seeds, evaluates them, and writes report.md, report.json and report.png. What is finished is not
repeated; an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from mmengine.config import Config, DictAction

from pano3d.apis.mutual_benefit import JOINT, REGIMES, gradient_curves, regime_config, write_benefit_report
from pano3d.apis.study import TRAINING, Study, StudyRun, with_budget
from pano3d.engine import check_inputs, load_config

TOOLS = Path(__file__).resolve().parent
REGIME_FILES = TOOLS.parent / 'configs' / '_base_' / 'regimes'
PRETRAINING_SEED = 1000


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Compare joint training with training for one task.')
    parser.add_argument('config', help='recipe; its pretrained weights are the common start')
    parser.add_argument('--seeds', type=int, default=3, help='number of seeds (default: %(default)s)')
    parser.add_argument('--steps', type=int, help="steps of each run (default: the config's); the schedule is scaled")
    parser.add_argument(
        '--pretrain',
        type=int,
        metavar='STEPS',
        help='first train the reconstruction network on its own loss, encoder too, for a config without pretrained '
        'weights; its result is the common start',
    )
    parser.add_argument('--regimes', default=','.join(REGIMES), help='(default: %(default)s)')
    parser.add_argument('--gradient-interval', type=int, default=50, help='of TaskGradientHook (default: %(default)s)')
    parser.add_argument('--jobs', type=int, help='runs at a time (default: one per GPU)')
    parser.add_argument('--out', type=Path, help='folder of the study (default: work_dirs/mutual_benefit_CONFIG)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='override settings')
    args = parser.parse_args()
    args.regimes = args.regimes.split(',')
    if unknown := sorted(set(args.regimes) - set(REGIMES)):
        parser.error(f'--regimes knows {", ".join(REGIMES)}, got {", ".join(unknown)}')
    if JOINT not in args.regimes:
        parser.error(f'--regimes needs {JOINT}, the one that the others are compared with')
    if args.seeds < 1:
        parser.error('--seeds must be at least 1')
    return args


def main() -> None:
    args = parse_args()
    try:
        config = load_config(args.config, args.cfg_options)
        check_inputs(config)
        study = Study(
            args.out or Path('work_dirs', f'mutual_benefit_{Path(args.config).stem}'), tools=TOOLS, jobs=args.jobs
        )
        start = pretrained_backbone(study, config, args.pretrain) if args.pretrain else None
        if args.steps:
            config = with_budget(config, args.steps)
        runs = [
            StudyRun(name, seed, of_regime(config, name, seed, start, args.gradient_interval))
            for seed in range(args.seeds)
            for name in args.regimes
        ]
        failed = study.run(runs)
        results: dict[str, dict[int, dict[str, float]]] = {name: {} for name in args.regimes}
        for run in runs:
            if (found := study.metrics(run)) is not None:
                results[run.name][run.seed] = found
        settings = {
            'Config': f'`{args.config}`',
            'Steps per run': config.train_cfg.max_iters,
            'Seeds': args.seeds,
            'Start': f'{args.pretrain} steps on geometry alone, the same for all runs'
            if start
            else 'that of the config',
        }
        folders = [study.out / run.place / TRAINING for run in runs if run.name == JOINT]
        paths = write_benefit_report(study.out, results, gradient_curves(folders), settings, failed)
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        sys.exit(f'mutual_benefit.py: {error}')
    print(paths[0].read_text())
    print('\n'.join(map(str, paths)))
    if failed:
        sys.exit(f'mutual_benefit.py: {len(failed)} runs failed, see above')


def of_regime(config: Config, name: str, seed: int, start: Path | None, gradient_interval: int) -> Config:
    regime = Config.fromfile(REGIME_FILES / f'{name}.py').regime
    changed = regime_config(config, regime, seed=seed, start=start)
    if name == JOINT:
        hooks = [*changed.get('custom_hooks', []), dict(type='TaskGradientHook', interval=gradient_interval)]
        changed.custom_hooks = hooks
    return changed


def pretrained_backbone(study: Study, config: Config, steps: int) -> Path:
    """Weights of a reconstruction network trained on its own loss, encoder too, written once.

    Raises:
        RuntimeError: if the training fails.
    """
    regime = dict(Config.fromfile(REGIME_FILES / 'geometry_only.py').regime, frozen_encoder=False)
    settings = regime_config(with_budget(config, steps), regime, seed=PRETRAINING_SEED, start=None)
    run = StudyRun('pretraining', PRETRAINING_SEED, settings)
    failed = study.run([run])
    if failed:
        raise RuntimeError(next(iter(failed.values())))
    path = study.out / 'pretrained_backbone.pth'
    state = torch.load(study.last_checkpoint(run), map_location='cpu', weights_only=True)['state_dict']
    torch.save({'state_dict': {name: value for name, value in state.items() if name.startswith('backbone.')}}, path)
    return path


if __name__ == '__main__':
    main()
