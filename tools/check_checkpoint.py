"""Say what a weight file is and which network it fits: `python tools/check_checkpoint.py FILE [--config CONFIG]`."""

from __future__ import annotations

import argparse
import sys

from pano3d.engine.checkpoint_report import report_checkpoint


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Say what a weight file is, and which backbone it fits name for name and shape for shape. Nothing '
        'in the file is run. Exit status: 0 if it fits, 1 if it does not or cannot be read.'
    )
    parser.add_argument('file', help='.safetensors, .safetensors.index.json, .pth or .pt; released, or from training')
    parser.add_argument('--config', help='compare with the network of this config only (default: all released ones)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        report = report_checkpoint(args.file, args.config)
    except (ValueError, OSError) as error:
        sys.exit(f'check_checkpoint.py: {error}')
    print('\n'.join(report.lines))
    if not report.fits:
        sys.exit(f'check_checkpoint.py: {args.file} does not fit')


if __name__ == '__main__':
    main()
