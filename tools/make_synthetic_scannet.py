"""Write made-up furnished rooms as a ScanNet v2 download: python tools/make_synthetic_scannet.py OUT --scenes N."""

from __future__ import annotations

import argparse
import sys

from pano3d.conversion.synthetic_rooms import RecordingOptions, write_rooms


def _size(text: str) -> tuple[int, int]:
    width, separator, height = text.partition('x')
    if not (separator and width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f'expected WIDTHxHEIGHT, e.g. 160x120, got {text!r}')
    return int(width), int(height)


def parse_args() -> argparse.Namespace:
    default = RecordingOptions()
    parser = argparse.ArgumentParser(
        description='Write made-up furnished rooms as a ScanNet v2 download. Run it again after an interruption, or '
        'with more scenes: finished ones are kept. The same seed and options give the same bytes.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('out', help='folder to write')
    parser.add_argument('--scenes', type=int, required=True, metavar='N', help='number of rooms')
    parser.add_argument('--val', type=int, default=0, metavar='N', help='how many of them are for validation')
    parser.add_argument('--seed', type=int, default=0, help='of all choices')
    parser.add_argument('--frames', type=int, default=default.num_frames, metavar='N', help='views per room')
    parser.add_argument('--size', type=_size, default='160x120', metavar='WxH', help='of colour images')
    parser.add_argument('--depth-size', type=_size, default='128x96', metavar='WxH', help='of depth images')
    parser.add_argument('--spacing', type=float, default=default.spacing, help='longest edge of the mesh, metres')
    parser.add_argument('--color-noise', type=float, default=default.color_noise, help='deviation, grey levels')
    parser.add_argument('--depth-noise', type=float, default=default.depth_noise, help='factor on that of a sensor')
    parser.add_argument('--depth-dropout', type=float, default=default.depth_dropout, help='share of depth pixels')
    parser.add_argument('--unposed', type=float, default=default.unposed, help='share of frames without a pose')
    parser.add_argument('--class-tint', type=float, default=default.class_tint, help='how far colour tells the class')
    parser.add_argument('--crowded', action='store_true', help='rooms with 20 to 60 objects, many equal, side by side')
    parser.add_argument('--num-workers', type=int, default=2, metavar='N', help='processes')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        options = RecordingOptions(
            num_frames=args.frames,
            color_size=args.size,
            depth_size=args.depth_size,
            spacing=args.spacing,
            color_noise=args.color_noise,
            depth_noise=args.depth_noise,
            depth_dropout=args.depth_dropout,
            unposed=args.unposed,
            class_tint=args.class_tint,
        )
        write_rooms(
            args.out,
            train=args.scenes - args.val,
            val=args.val,
            seed=args.seed,
            options=options,
            crowded=args.crowded,
            num_workers=args.num_workers,
        )
    except ValueError as error:
        sys.exit(f'make_synthetic_scannet.py: {error}')


if __name__ == '__main__':
    main()
