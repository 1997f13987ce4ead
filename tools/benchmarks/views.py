"""Time and memory of the panoptic head by the number of views: python tools/benchmarks/views.py."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median

import torch
from measurement import peak_memory, time_alternately
from mmengine.registry import DefaultScope

from pano3d.engine import load_config
from pano3d.models import PanopticSetHead, ViewFeatures
from pano3d.registry import MODELS

CONFIG = Path(__file__).parents[2] / 'configs/pano3d_must3r_scannet.py'
PATCH = 16
MIB = 2**20


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Time and peak memory of the full-size head in prediction (bridge, layers of queries, masks), '
        'with random weights and random features of the backbone. Memory is what is added to weights and features, '
        'and includes the masks that come out.',
        epilog='Exit status: 0, or 2 on bad arguments.',
    )
    parser.add_argument('--views', nargs='+', type=int, default=[4, 8, 16, 32, 64, 128], help='default: 4 to 128')
    parser.add_argument('--size', type=_size, default=(384, 512), metavar='HxW', help='of the images (384x512)')
    parser.add_argument('--chunk-size', type=int, default=8, help='views whose masks are drawn at a time (default: 8)')
    parser.add_argument(
        '--all-stages', type=int, default=0, metavar='V', help='up to V views also with the masks of all stages at once'
    )
    parser.add_argument('--repeats', type=int, default=3, help='timed passes of each (default: 3)')
    parser.add_argument('--device', default='cpu', help='cpu or cuda (default: cpu)')
    parser.add_argument('--json', type=Path, metavar='OUT', help='write all numbers to this file')
    args = parser.parse_args(arguments)
    if min(args.repeats, args.chunk_size, *args.views) < 1:
        parser.error('--repeats, --chunk-size and --views must be at least 1')
    return args


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r'(\d+)x(\d+)', text)
    if match is None or int(match[1]) % PATCH or int(match[2]) % PATCH:
        raise argparse.ArgumentTypeError(f'expected HEIGHTxWIDTH, multiples of {PATCH} such as 384x512, got {text!r}')
    return int(match[1]), int(match[2])


def build_head(device: torch.device) -> PanopticSetHead:
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('pano3d'):
        return MODELS.build(load_config(CONFIG).model.head).to(device).eval()


def random_views(head: PanopticSetHead, count: int, size: tuple[int, int], device: torch.device) -> ViewFeatures:
    generator = torch.Generator().manual_seed(0)
    grid = size[0] // PATCH, size[1] // PATCH
    sources = {
        name: torch.randn(1, count, grid[0] * grid[1], norm.normalized_shape[0], generator=generator).to(device)
        for name, norm in head.bridge.norms.items()
    }
    return ViewFeatures(sources, grid)


@torch.inference_mode()
def measure(head: PanopticSetHead, count: int, args: argparse.Namespace) -> dict[str, object]:
    """All numbers of one number of views."""
    print(f'{count} views', file=sys.stderr, flush=True)
    device = torch.device(args.device)
    views = random_views(head, count, args.size, device)
    runs = {'prediction': partial(head.predict, views, chunk_size=args.chunk_size)}
    if count <= args.all_stages:
        runs['all stages'] = partial(head, views)
    masks = runs['prediction']().masks  # warms up
    times = time_alternately(runs, args.repeats, device)
    return {
        'views': count,
        'mask_bytes': masks.numel() * masks.element_size(),
        'peak_bytes': {name: peak_memory(run, device) for name, run in runs.items()},
        'seconds': times,
        'median_seconds': {name: median(values) for name, values in times.items()},
    }


def table(results: Sequence[dict]) -> str:
    lines = [
        '| views | peak MiB | MiB per view | of it masks | seconds | ms per view | all stages at once: MiB, seconds |',
        '| ---: | ---: | ---: | ---: | ---: | ---: | ---: |',
    ]
    for result in results:
        views, peak, seconds = result['views'], result['peak_bytes'], result['median_seconds']
        whole = f'{peak["all stages"] / MIB:.0f}, {seconds["all stages"]:.2f}' if 'all stages' in peak else ''
        lines.append(
            f'| {views} | {peak["prediction"] / MIB:.0f} | {peak["prediction"] / MIB / views:.1f} '
            f'| {result["mask_bytes"] / MIB / views:.1f} | {seconds["prediction"]:.2f} '
            f'| {1e3 * seconds["prediction"] / views:.1f} | {whole} |'
        )
    return '\n'.join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    device = torch.device(args.device)
    try:
        head = build_head(device)
        results = [measure(head, count, args) for count in args.views]
    except (ValueError, RuntimeError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print(table(results))
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else f'cpu, {torch.get_num_threads()} threads'
    print(f'{name}, torch {torch.__version__}, chunks of {args.chunk_size} views; median of {args.repeats}')
    if args.json is not None:
        args.json.write_text(json.dumps({'device': name, 'results': results}, indent=1) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
