"""See Pano3D train, evaluate and show its result on made-up rooms: `make demo`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pano3d.apis.demo import run_demo
from pano3d.engine import load_config

ROOT = Path(__file__).resolve().parent.parent


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--config', default=str(ROOT / 'configs' / 'pano3d_vggt_demo.py'), help='configuration file')
    parser.add_argument('--out', type=Path, default=Path('outputs/demo'), help='output folder')
    parser.add_argument('--raw', type=Path, default=Path('data/synthetic_rooms/raw'), help='folder for the raw rooms')
    parser.add_argument('--train-rooms', type=int, default=400)
    parser.add_argument('--held-out-rooms', type=int, default=24, help='rooms of another seed to test on')
    parser.add_argument('--pictures', type=int, default=4, help='held-out rooms to draw')
    parser.add_argument('--num-workers', type=int, default=2, help='processes for making and converting rooms')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        config = load_config(args.config)
    except ValueError as error:
        sys.exit(f'demo.py: {error}')
    run_demo(
        config,
        args.out,
        raw=args.raw,
        train_rooms=args.train_rooms,
        held_out_rooms=args.held_out_rooms,
        pictures=args.pictures,
        num_workers=args.num_workers,
    )
    print(args.out)


if __name__ == '__main__':
    main()
