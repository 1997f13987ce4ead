"""Fix the views of an evaluation in a file: python tools/list_views.py ROOT val.json OUT.json."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from pano3d.datasets import LinspaceViews, ScanNetMultiViewDataset


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Write the evenly spread frames of every scene of a list as a file that `ListedViews` reads, so '
        'that others evaluate on the same ones however their scenes were converted.',
        epilog='Exit status: 0 if the file was written, 2 if the scenes cannot be used.',
    )
    parser.add_argument('root', help='folder of the stored scenes')
    parser.add_argument('split', help='the list of scenes, e.g. val.json')
    parser.add_argument('out', type=Path, help='the file to write')
    parser.add_argument('--num-views', type=int, default=20, metavar='N', help='of each scene (default: 20)')
    parser.add_argument('--label-space', default='scannet20', help='name or file (default: scannet20)')
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    try:
        chosen = ScanNetMultiViewDataset(
            data_root=args.root,
            ann_file=args.split,
            label_space=args.label_space,
            pipeline=[LinspaceViews(num_views=args.num_views)],
        )
        views = {sample['scene'].scene_id: [view.id for view in sample['views']] for sample in chosen}
        record = {'format': 'pano3d-views', 'version': 1, 'views': views}
        args.out.write_text(json.dumps(record, indent=1) + '\n', encoding='utf-8')
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
