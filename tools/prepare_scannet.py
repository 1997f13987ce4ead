"""Convert a ScanNet v2 release to stored scenes: python tools/prepare_scannet.py RAW OUT."""

from __future__ import annotations

import argparse
import sys

from pano3d.conversion import Share, convert_scannet
from pano3d.conversion.share import usable_cores


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Convert the scans of a ScanNet v2 release to stored scenes (docs/scene_format.md), once for '
        'ScanNet20 and ScanNet200. Run it again after an interruption: finished scenes are kept. Runs '
        'for the same OUT share its scenes.',
        epilog='Exit status: 0 if all scenes are there, 1 if some failed, 2 if the release cannot be used.',
    )
    parser.add_argument('raw', help='release folder with scans, scans_test and the label table')
    parser.add_argument('out', help='folder of the stored scenes')
    parser.add_argument('--frame-skip', type=int, default=20, metavar='N', help='take every N-th frame (default: 20)')
    parser.add_argument(
        '--num-workers',
        type=int,
        default=usable_cores(),
        metavar='N',
        help='processes of each rank (default: one per CPU)',
    )
    parser.add_argument(
        '--rank', type=int, metavar='R', help='of N equal runs for OUT (default: from torchrun or slurm)'
    )
    parser.add_argument('--world-size', type=int, metavar='N', help='number of such runs (default: likewise, else 1)')
    parser.add_argument(
        '--splits',
        metavar='FOLDER',
        help='folder with scannetv2_{train,val,test}.txt (default: RAW/Tasks/Benchmark, without it the official ones)',
    )
    parser.add_argument(
        '--rasterise-missing',
        action='store_true',
        help='make instance maps that the release lacks from the mesh (default: these images have none)',
    )
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    try:
        share = Share.find(args.rank, args.world_size)
        summary = convert_scannet(
            args.raw,
            args.out,
            frame_skip=args.frame_skip,
            num_workers=args.num_workers,
            splits=args.splits,
            rasterise_missing=args.rasterise_missing,
            share=share,
            show_progress=share.rank == 0,
        )
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print(summary.describe(share))
    return 1 if summary.failed else 0


if __name__ == '__main__':
    sys.exit(main())
