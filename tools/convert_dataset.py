"""Convert data that others have processed to stored scenes: python tools/convert_dataset.py ROOT OUT --format NAME."""

from __future__ import annotations

import argparse
import sys
from functools import partial

from pano3d.conversion import Share, convert_mmdet3d_scannet, convert_panst3r, convert_scannet_25k, convert_siu3r
from pano3d.conversion.share import usable_cores

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
        'after an interruption:\nfinished scenes are kept. Runs for the same OUT share its scenes. Formats:\n'
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
    args = parser.parse_args()
    if args.rasterise and args.format != 'mmdet3d':
        parser.error('--rasterise is for --format mmdet3d')
    if args.splits and args.format != 'scannet_frames_25k':
        parser.error('--splits is for --format scannet_frames_25k')
    return args


def main() -> int:
    args = parse_args()
    convert = {
        'siu3r': convert_siu3r,
        'panst3r': convert_panst3r,
        'mmdet3d': partial(convert_mmdet3d_scannet, rasterise=args.rasterise),
        'scannet_frames_25k': partial(convert_scannet_25k, splits=args.splits),
    }[args.format]
    try:
        share = Share.find(args.rank, args.world_size)
        summary = convert(args.root, args.out, num_workers=args.num_workers, share=share, show_progress=share.rank == 0)
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print(summary.describe(share))
    return 1 if summary.failed else 0


if __name__ == '__main__':
    sys.exit(main())
