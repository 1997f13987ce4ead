"""Check stored scenes: python tools/check_dataset.py ROOT."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pano3d.apis.dataset_check import SPLITS, check_split, contact_sheet, describe
from pano3d.structures import LabelSpace


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Check stored scenes (docs/scene_format.md): counts, labels, missing files, poses, and whether '
        'neighbouring frames see the same surface. Draws a contact sheet per list.',
        epilog='Exit status: 0 if nothing is wrong, 1 if there are problems, 2 if the folder cannot be used.',
    )
    parser.add_argument('root', type=Path, help='folder of the stored scenes')
    parser.add_argument('--split', nargs='+', metavar='FILE', help='lists to check (default: those that are there)')
    parser.add_argument('--label-space', help='name or file (default: ROOT/label_space.json, else scannet20)')
    parser.add_argument(
        '--pairs', type=int, default=4, metavar='N', help='pairs of frames to look at per scene (default: 4)'
    )
    parser.add_argument('--out', type=Path, help='folder of the contact sheets (default: none are drawn)')
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    own = args.root / 'label_space.json'
    try:
        label_space = LabelSpace.load(args.label_space or (str(own) if own.is_file() else 'scannet20'))
        splits = args.split or [name for name in SPLITS if (args.root / name).is_file()]
        if not splits:
            raise ValueError(f'{args.root}: no list of scenes; expected at least one of {list(SPLITS)}')
        problems = 0
        for split in splits:
            checks = check_split(args.root, split, label_space, num_pairs=args.pairs)
            print(describe(split, checks, label_space))
            problems += sum(len(check.problems) for check in checks)
            sheet = contact_sheet(checks)
            if args.out is not None and sheet is not None:
                args.out.mkdir(parents=True, exist_ok=True)
                sheet.save(args.out / f'{Path(split).stem}.png')
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 1 if problems else 0


if __name__ == '__main__':
    sys.exit(main())
