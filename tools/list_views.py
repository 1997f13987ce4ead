"""Fix the views of an evaluation in a file: python tools/list_views.py ROOT val.json OUT.json."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pano3d.datasets import (
    AllViews,
    LinspaceViews,
    ScanNetMultiViewDataset,
    StrideViews,
    Transform,
    match_frames,
    parse_view_lines,
    write_view_lists,
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Write which frames of every scene are evaluated as a file that `ListedViews` reads, so that '
        'others evaluate on the same ones however their scenes were converted.',
        epilog='Exit status: 0 if the file was written, 2 if the scenes cannot be used or lack a listed frame.',
    )
    parser.add_argument('root', help='folder of the stored scenes')
    parser.add_argument('split', help='the list of scenes, e.g. val.json')
    parser.add_argument('out', type=Path, help='the file to write')
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument('--num-views', type=int, default=20, metavar='N', help='evenly spread (default: 20)')
    choice.add_argument('--stride', type=int, metavar='N', help='every Nth frame of the recording')
    choice.add_argument('--all', action='store_true', help='every stored frame')
    choice.add_argument(
        '--frames',
        type=Path,
        metavar='FILE',
        help='those of a text file, one list per line: SCENE FRAME FRAME ..., frames by id or number; scenes may have '
        'several lists, such as pairs',
    )
    parser.add_argument('--label-space', default='scannet20', help='name or file (default: scannet20)')
    return parser.parse_args()


def choose(args: argparse.Namespace) -> dict[str, list[list[str]]]:
    """Scene id -> its lists of frame ids."""
    rule: Transform = LinspaceViews(num_views=args.num_views)
    if args.stride is not None:
        rule = StrideViews(stride=args.stride)
    elif args.all or args.frames:
        rule = AllViews()
    dataset = ScanNetMultiViewDataset(
        data_root=args.root, ann_file=args.split, label_space=args.label_space, pipeline=[rule]
    )
    if args.frames is None:
        return {sample['scene'].scene_id: [[view.id for view in sample['views']]] for sample in dataset}
    listed = parse_view_lines(args.frames.read_text(encoding='utf-8'))
    scenes = {sample['scene'].scene_id: sample['scene'] for sample in dataset}
    absent = sorted(listed.keys() - scenes.keys())
    if absent:
        raise ValueError(f'{args.frames}: {len(absent)} scenes are not in {args.split}, e.g. {absent[0]}')
    return {scene_id: [match_frames(frames, scenes[scene_id]) for frames in listed[scene_id]] for scene_id in listed}


def main() -> int:
    args = parse_args()
    try:
        write_view_lists(args.out, choose(args))
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
