"""Write made-up furnished rooms as a ScanNet v2 download."""

from __future__ import annotations

import argparse

from pano3d.conversion.synthetic_rooms import RecordingOptions, make_synthetic_scannet


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(side) for side in text.lower().split('x'))
    except ValueError:
        raise argparse.ArgumentTypeError(f'expected WIDTHxHEIGHT, e.g. 160x120, got {text!r}') from None
    return width, height


def parse_arguments() -> argparse.Namespace:
    default = RecordingOptions()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('out', help='folder to write; finished scenes in it are kept')
    parser.add_argument('--scenes', type=int, required=True, help='number of rooms')
    parser.add_argument('--val', type=int, default=0, help='how many of them, the first ones, are for validation')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--frames', type=int, default=default.num_frames, help='views per room')
    parser.add_argument('--size', type=_size, default=default.color_size, help='colour images, WIDTHxHEIGHT')
    parser.add_argument('--depth-size', type=_size, help='depth images, WIDTHxHEIGHT; four fifths of the colour images')
    parser.add_argument('--spacing', type=float, default=default.spacing, help='mesh resolution, metres')
    parser.add_argument('--color-noise', type=float, default=default.color_noise, help='grey levels')
    parser.add_argument(
        '--depth-noise', type=float, default=default.depth_noise, help="factor on a real sensor's noise"
    )
    parser.add_argument('--depth-dropout', type=float, default=default.depth_dropout, help='share of pixels')
    parser.add_argument('--unposed', type=float, default=default.unposed, help='share of frames without a pose')
    parser.add_argument('--num-workers', type=int, default=2)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    options = RecordingOptions(
        num_frames=arguments.frames,
        color_size=arguments.size,
        depth_size=arguments.depth_size or tuple(side * 4 // 5 for side in arguments.size),
        spacing=arguments.spacing,
        color_noise=arguments.color_noise,
        depth_noise=arguments.depth_noise,
        depth_dropout=arguments.depth_dropout,
        unposed=arguments.unposed,
    )
    make_synthetic_scannet(
        arguments.out,
        num_scenes=arguments.scenes,
        num_val=arguments.val,
        seed=arguments.seed,
        options=options,
        num_workers=arguments.num_workers,
    )


if __name__ == '__main__':
    main()
