"""Evaluate a checkpoint: `python tools/test.py CONFIG CHECKPOINT`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from mmengine.config import DictAction
from mmengine.dist import is_main_process
from mmengine.runner import Runner

from pano3d.engine import check_inputs, configure_processes, load_config, load_model_weights


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Evaluate Pano3D; metrics go to the terminal and metrics.json.')
    parser.add_argument('config', help='configuration file')
    parser.add_argument('checkpoint', help='weights written by training')
    parser.add_argument('--work-dir', help='folder for logs and metrics.json (default: work_dirs/CONFIG_NAME)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='override settings')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        config = load_config(args.config, args.cfg_options)
        check_inputs(config, training=False)
        if not Path(args.checkpoint).is_file():
            raise FileNotFoundError(f'{args.checkpoint}: no such checkpoint')
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f'test.py: {error}')
    config.work_dir = args.work_dir or config.get('work_dir') or str(Path('work_dirs') / Path(args.config).stem)
    configure_processes(config, args.launcher)
    runner = Runner.from_cfg(config)
    try:
        load_model_weights(runner.model, args.checkpoint)
    except ValueError as error:
        sys.exit(f'test.py: {error}')
    metrics = runner.test()
    if is_main_process():
        path = Path(config.work_dir) / 'metrics.json'
        path.write_text(json.dumps(metrics, indent=2, sort_keys=True) + '\n')
        print(path)


if __name__ == '__main__':
    main()
