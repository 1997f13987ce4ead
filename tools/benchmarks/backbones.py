"""Time and memory of the backbones against plain implementations: python tools/benchmarks/backbones.py."""

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
from peers import FAMILIES, SCALES, build_pair, difference, run_ours

SIZES = {'tiny': (112, 112), 'small': (224, 224), 'full': (336, 448)}
LARGEST_DIFFERENCE = 1e-3
MIB = 2**20


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Compare time and peak memory of a forward pass (encode, decode, regress; no gradients) with '
        'module-by-module implementations of the same networks (tools/benchmarks/plain), which get the same random '
        'weights and the same images in the same run. Memory is that of the activations, on top of weights and images.',
        epilog='Exit status: 0 if the outputs agree, 1 if not, 2 on bad arguments.',
    )
    parser.add_argument('--backbone', nargs='+', choices=FAMILIES, default=list(FAMILIES), help='default: all')
    parser.add_argument('--scale', choices=SCALES, default='small', help='size of the networks (default: small)')
    parser.add_argument('--views', type=int, help='views per scene (default: 2 for dust3r, else 4)')
    parser.add_argument('--size', type=_size, metavar='HxW', help='of the images (default: by scale, up to 336x448)')
    parser.add_argument('--repeats', type=int, default=7, help='timed passes of each (default: 7)')
    parser.add_argument('--device', default='cpu', help='cpu or cuda (default: cpu)')
    parser.add_argument('--json', type=Path, metavar='OUT', help='write all numbers to this file')
    args = parser.parse_args(arguments)
    args.size = args.size or SIZES[args.scale]
    if args.repeats < 1 or (args.views is not None and args.views < 1):
        parser.error('--repeats and --views must be at least 1')
    if args.views == 1 and 'dust3r' in args.backbone:
        parser.error('dust3r needs at least 2 --views')
    return args


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r'(\d+)x(\d+)', text)
    if match is None:
        raise argparse.ArgumentTypeError(f'expected HEIGHTxWIDTH such as 224x224, got {text!r}')
    return int(match[1]), int(match[2])


@torch.inference_mode()
def measure(name: str, args: argparse.Namespace) -> dict[str, object]:
    """All numbers of one backbone."""
    family, device = FAMILIES[name], torch.device(args.device)
    views = args.views or family.views
    report = partial(print, f'{name}:', file=sys.stderr, flush=True)
    report(f'build at scale {args.scale}')
    ours, plain = build_pair(family, args.scale, device)
    weights = list(plain.parameters())
    images = torch.rand(1, views, 3, *args.size, generator=torch.Generator().manual_seed(0)).to(device)
    runs = {'ours': partial(run_ours, ours, images), 'plain': partial(family.run_plain, plain, images)}
    report('compare outputs')  # and warm up
    found = difference(runs['ours'](), runs['plain']())
    report('measure memory')
    memory = {way: peak_memory(run, device) for way, run in runs.items()}
    report(f'measure time, {args.repeats} times each')
    times = time_alternately(runs, args.repeats, device)
    seconds = {way: median(values) for way, values in times.items()}
    return {
        'backbone': name,
        'scale': args.scale,
        'views': views,
        'size': list(args.size),
        'parameters': sum(weight.numel() for weight in weights),
        'weight_bytes': sum(weight.numel() * weight.element_size() for weight in weights),
        'largest_difference': found,
        'peak_bytes': memory,
        'memory_ratio': memory['ours'] / memory['plain'],
        'seconds': times,
        'median_seconds': seconds,
        'time_ratio': seconds['ours'] / seconds['plain'],
    }


def describe_machine(device: torch.device) -> dict[str, object]:
    return {
        'device': torch.cuda.get_device_name(device) if device.type == 'cuda' else 'cpu',
        'threads': torch.get_num_threads(),
        'torch': torch.__version__,
    }


def table(results: Sequence[dict]) -> str:
    head = (
        f'{"backbone":9} {"scale":6} {"views x size":15} {"weights":>9} {"ours ms":>9} {"plain ms":>9} {"ratio":>6} '
        f'{"ours MiB":>9} {"plain MiB":>9} {"ratio":>6} {"difference":>10}'
    )
    lines = [head]
    for result in results:
        height, width = result['size']
        milliseconds = [1e3 * result['median_seconds'][way] for way in ('ours', 'plain')]
        mebibytes = [result['peak_bytes'][way] / MIB for way in ('ours', 'plain')]
        lines.append(
            f'{result["backbone"]:9} {result["scale"]:6} {result["views"]:2} x {f"{height}x{width}":10} '
            f'{result["parameters"] / 1e6:7.1f} M {milliseconds[0]:9.1f} {milliseconds[1]:9.1f} '
            f'{result["time_ratio"]:6.3f} {mebibytes[0]:9.1f} {mebibytes[1]:9.1f} {result["memory_ratio"]:6.3f} '
            f'{result["largest_difference"]:10.1e}'
        )
    return '\n'.join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    try:
        machine = describe_machine(torch.device(args.device))
        results = [measure(name, args) for name in args.backbone]
    except (ValueError, RuntimeError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print(table(results))
    print(', '.join(f'{key} {value}' for key, value in machine.items()) + f'; median of {args.repeats}')
    if args.json is not None:
        args.json.write_text(json.dumps({'machine': machine, 'results': results}, indent=1) + '\n')
    wrong = [result['backbone'] for result in results if not result['largest_difference'] <= LARGEST_DIFFERENCE]
    if wrong:
        print(f'error: the outputs of {wrong} are not those of the plain network', file=sys.stderr)
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
