"""Convert data that others have processed to stored scenes: python tools/convert_dataset.py ROOT OUT --format NAME."""

from __future__ import annotations

import argparse
import os
import sys

from pano3d.conversion.mmdet3d_scannet import convert_mmdet3d_scannet
from pano3d.conversion.panst3r import convert_panst3r
from pano3d.conversion.scannet_25k import convert_scannet_25k
from pano3d.conversion.siu3r import convert_siu3r

FORMATS = {
    'siu3r': 'ScanNet as SIU3R offers it: ROOT/{train,val}/<scene>',
    'panst3r': "ScanNet++ as PanSt3R's tool leaves it: ROOT/all_metadata.npz",
    'mmdet3d': 'ScanNet as prepared for mmdet3d: ROOT/scannet_infos_*.pkl',
    'scannet_frames_25k': 'the frames of the 2D benchmarks: ROOT/<scene>; one view at a time only',
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description='Convert data that others have processed to stored scenes (docs/scene_format.md). Run it again '
        'after an interruption:\nfinished scenes are kept. Formats:\n'
        + '\n'.join(f'  {name:20}{text}' for name, text in FORMATS.items()),
        epilog='Exit status: 0 if all scenes are there, 1 if some failed, 2 if the folder cannot be used.',
    )
    parser.add_argument('root', help='folder of the processed data')
    parser.add_argument('out', help='folder of the stored scenes')
    parser.add_argument('--format', required=True, choices=FORMATS)
    parser.add_argument(
        '--rasterise', action='store_true', help='mmdet3d: make depth and instance maps from the meshes in ROOT/scans'
    )
    parser.add_argument(
        '--splits',
        metavar='FOLDER',
        help='scannet_frames_25k: folder with scannetv2_{train,val,test}.txt (default: by the numbers of the scenes)',
    )
    parser.add_argument(
        '--num-workers', type=int, default=os.cpu_count() or 1, metavar='N', help='default: one per CPU'
    )
    args = parser.parse_args()
    if args.rasterise and args.format != 'mmdet3d':
        parser.error('--rasterise is for --format mmdet3d')
    if args.splits and args.format != 'scannet_frames_25k':
        parser.error('--splits is for --format scannet_frames_25k')
    return args


def main() -> int:
    args = parse_args()
    workers = args.num_workers
    try:
        if args.format == 'siu3r':
            summary = convert_siu3r(args.root, args.out, num_workers=workers, show_progress=True)
        elif args.format == 'panst3r':
            summary = convert_panst3r(args.root, args.out, num_workers=workers, show_progress=True)
        elif args.format == 'mmdet3d':
            summary = convert_mmdet3d_scannet(
                args.root, args.out, rasterise=args.rasterise, num_workers=workers, show_progress=True
            )
        else:
            summary = convert_scannet_25k(
                args.root, args.out, splits=args.splits, num_workers=workers, show_progress=True
            )
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print(summary.describe())
    return 1 if summary.failed else 0


if __name__ == '__main__':
    sys.exit(main())
