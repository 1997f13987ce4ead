"""Convert a ScanNet++ v2 release to stored scenes: python tools/prepare_scannetpp.py RAW OUT."""

from __future__ import annotations

import argparse
import sys

from pano3d.conversion import Share
from pano3d.conversion.scannetpp import convert_scannetpp
from pano3d.conversion.share import usable_cores


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Convert the scans of a ScanNet++ v2 release to stored scenes (docs/scene_format.md), one camera '
        'per run and folder. Run it again after an interruption: finished scenes are kept. Runs '
        'for the same OUT share its scenes.',
        epilog='Exit status: 0 if all scenes are there, 1 if some failed, 2 if the release cannot be used.',
    )
    parser.add_argument('raw', help='release folder with data, splits and metadata/semantic_benchmark')
    parser.add_argument('out', help='folder of the stored scenes')
    parser.add_argument('--camera', choices=['dslr', 'iphone'], default='dslr', help='default: dslr')
    parser.add_argument('--frame-skip', type=int, default=1, metavar='N', help='take every N-th image (default: 1)')
    parser.add_argument(
        '--depth', choices=['mesh', 'sensor'], help='default: the LiDAR of the iPhone, the mesh for the DSLR'
    )
    parser.add_argument(
        '--image-labels',
        choices=['2d', '3d'],
        default='2d',
        help='official rule for mesh vertices of several objects in instance maps: the last object of the file (2d, '
        'default), or of up to three with benchmark classes the smallest (3d)',
    )
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
        '--splits', metavar='FOLDER', help='folder with nvs_sem_{train,val}.txt and sem_test.txt (default: RAW/splits)'
    )
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    try:
        share = Share.find(args.rank, args.world_size)
        summary = convert_scannetpp(
            args.raw,
            args.out,
            camera=args.camera,
            frame_skip=args.frame_skip,
            depth=args.depth,
            image_labels=args.image_labels,
            num_workers=args.num_workers,
            splits=args.splits,
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
