"""Evaluate a checkpoint, or predictions made before: `python tools/test.py CONFIG CHECKPOINT`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmengine.config import DictAction
from mmengine.dist import is_main_process

from pano3d.apis import evaluate_scenes, format_scores, format_troubles, write_report
from pano3d.engine import check_inputs, configure_processes, load_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Evaluate Pano3D, or predictions in files; writes a report.')
    parser.add_argument('config', help='configuration file')
    parser.add_argument('checkpoint', nargs='?', help='weights written by training')
    parser.add_argument(
        '--predictions', metavar='FOLDER', help='evaluate these instead of a checkpoint (docs/predictions.md)'
    )
    parser.add_argument(
        '--missing-scenes',
        choices=['error', 'empty'],
        default='error',
        help='scenes without a prediction fail, or count as empty',
    )
    parser.add_argument('--protocols', metavar='all|NAME,NAME', help='docs/protocols.md (default: those of the config)')
    parser.add_argument('--save-predictions', metavar='FOLDER', help='also write the predictions')
    parser.add_argument('--fresh', action='store_true', help='evaluate scenes again that were evaluated before')
    parser.add_argument('--work-dir', help='folder for logs and states (default: work_dirs/CONFIG_NAME)')
    parser.add_argument('--out', help='folder for metrics.json, report.md and report.html (default: the work dir)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='override settings')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if (args.checkpoint is None) == (args.predictions is None):
        parser.error('give either CHECKPOINT or --predictions FOLDER')
    if args.predictions and args.launcher != 'none':
        parser.error('predictions in files are evaluated in one process: leave out --launcher')
    return args


def main() -> None:
    args = parse_args()
    try:
        config = load_config(args.config, args.cfg_options)
        check_inputs(config, training=False)
        if args.checkpoint and not Path(args.checkpoint).is_file():
            raise FileNotFoundError(f'{args.checkpoint}: no such checkpoint')
        work_dir = args.work_dir or config.get('work_dir') or str(Path('work_dirs') / Path(args.config).stem)
        configure_processes(config, args.launcher)
        evaluation = evaluate_scenes(
            config,
            work_dir,
            checkpoint=args.checkpoint,
            predictions=args.predictions,
            protocols=args.protocols.split(',') if args.protocols else None,
            missing_scenes=args.missing_scenes,
            save_predictions=args.save_predictions,
            fresh=args.fresh,
        )
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f'test.py: {error}')
    if is_main_process():
        paths = write_report(evaluation, args.out or work_dir)
        print(format_scores(evaluation.summary))
        if troubles := format_troubles(evaluation.summary):
            print(troubles, file=sys.stderr)
        print('\n'.join(map(str, reversed(paths))))
    if evaluation.failed:
        sys.exit('test.py: not everything could be evaluated, see above')


if __name__ == '__main__':
    main()
