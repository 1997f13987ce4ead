"""See Pano3D train, evaluate and show its result on made-up rooms: `make demo`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pano3d.apis.demo import run_demo
from pano3d.engine import load_config

CONFIGS = Path(__file__).resolve().parent.parent / 'configs'
BACKBONES = sorted(path.name.split('_')[1] for path in CONFIGS.glob('pano3d_*_demo.py'))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--backbone', choices=BACKBONES, default='vggt', help='configs/pano3d_<backbone>_demo.py')
    parser.add_argument('--config', type=Path, help='another configuration file')
    parser.add_argument('--out', type=Path, help='output folder (default: outputs/demo_<backbone>)')
    parser.add_argument('--raw', type=Path, default=Path('data/synthetic_rooms/raw'), help='folder for the raw rooms')
    parser.add_argument('--train-rooms', type=int, default=400)
    parser.add_argument('--held-out-rooms', type=int, default=24, help='rooms of another seed to test on')
    parser.add_argument('--pictures', type=int, default=4, help='held-out rooms to draw')
    parser.add_argument('--num-workers', type=int, default=2, help='processes for making and converting rooms')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        config = load_config(args.config or CONFIGS / f'pano3d_{args.backbone}_demo.py')
    except ValueError as error:
        sys.exit(f'demo.py: {error}')
    out = args.out or Path('outputs') / f'demo_{args.config.stem if args.config else args.backbone}'
    run_demo(
        config,
        out,
        raw=args.raw,
        train_rooms=args.train_rooms,
        held_out_rooms=args.held_out_rooms,
        pictures=args.pictures,
        num_workers=args.num_workers,
    )
    print(out)


if __name__ == '__main__':
    main()
