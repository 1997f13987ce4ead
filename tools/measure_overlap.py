"""Measure how much the frames of stored scenes see of each other: python tools/measure_overlap.py ROOT."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pano3d.apis.scene_overlap import measure_overlap
from pano3d.conversion.share import usable_cores

SPLITS = ('train.json', 'val.json', 'test.json')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Write `overlap.npz` beside every stored scene (docs/scene_format.md); `OverlapViews` and '
        '`SplitKeyframes` read it. Run it again after an interruption: finished scenes are kept.',
        epilog='Exit status: 0 if all scenes have a table, 1 if some failed, 2 if the folder cannot be used.',
    )
    parser.add_argument('root', type=Path, help='folder of the stored scenes')
    parser.add_argument('--split', nargs='+', metavar='FILE', help='lists of scenes (default: those that are there)')
    parser.add_argument(
        '--tolerance', type=float, default=0.05, help='relative difference of depth of one surface (default: 0.05)'
    )
    parser.add_argument('--redo', action='store_true', help='measure scenes again that have a table')
    parser.add_argument('--num-workers', type=int, default=usable_cores(), metavar='N', help='default: one per CPU')
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    failed = 0
    try:
        splits = args.split or [name for name in SPLITS if (args.root / name).is_file()]
        if not splits:
            raise ValueError(f'{args.root}: no list of scenes; expected at least one of {list(SPLITS)}')
        for split in splits:
            summary = measure_overlap(
                args.root,
                split,
                tolerance=args.tolerance,
                redo=args.redo,
                num_workers=args.num_workers,
                show_progress=True,
            )
            print(f'{split}: {summary.describe()}')
            failed += len(summary.failed)
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
