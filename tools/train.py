"""Train a config: `python tools/train.py configs/pano3d_vggt_scannet.py`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmengine.config import DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from pano3d.engine import TrainingDivergedError, check_inputs, configure_processes, load_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train Pano3D.')
    parser.add_argument('config', help='configuration file')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints (default: work_dirs/CONFIG_NAME)')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue from CHECKPOINT, or without a path from the newest one in the work dir',
    )
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='override settings')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        config = load_config(args.config, args.cfg_options)
        if args.resume:
            config.resume = True
            config.load_from = None if args.resume == 'auto' else args.resume
        check_inputs(config)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f'train.py: {error}')
    config.work_dir = args.work_dir or config.get('work_dir') or str(Path('work_dirs') / Path(args.config).stem)
    configure_processes(config, args.launcher)
    if args.amp:
        config.optim_wrapper.type = 'GuardedAmpOptimWrapper'
        config.optim_wrapper.loss_scale = 'dynamic'
    try:
        runner = RUNNERS.build(config) if 'runner_type' in config else Runner.from_cfg(config)
        runner.train()
    except TrainingDivergedError as error:
        sys.exit(f'train.py: {error}')


if __name__ == '__main__':
    main()
