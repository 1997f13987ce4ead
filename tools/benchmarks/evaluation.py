"""Time and memory of the evaluation against public evaluators: python tools/benchmarks/evaluation.py."""

from __future__ import annotations

import argparse
import json
import platform
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from evaluators import DISJOINT, OVERLAPPING, PANOPTIC, Evaluator, Run, missing, ours, ours_points, views_of
from measurement import peak_process_memory, time_alternately
from rooms import random_points, random_room, without_overlap

MIB = 2**20
CPU = torch.device('cpu')


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Compare time and memory of panoptic quality (an image is a view, or all views of a scene) and of '
        'average precision on points with public evaluators: the same random labels, the same scores, one run. '
        'Our time is that of the registered metric, from labels in memory (int64, as the models give them) to scores. '
        'panopticapi (on one core) and hotcoco read the PNG files that they ask for, written before. Evaluators that '
        'are not installed are skipped. Set OMP_NUM_THREADS and RAYON_NUM_THREADS to 1 to compare at one thread.',
        epilog='Exit status: 0 if the scores agree, 1 if not, 2 on bad arguments. Speed does not change it.',
    )
    parser.add_argument('--scenes', type=int, default=50, help='default: 50')
    parser.add_argument('--slow-scenes', type=int, default=2, help='scenes for torchmetrics and ours beside it')
    parser.add_argument('--views', type=int, default=20, help='views per scene (default: 20)')
    parser.add_argument('--size', type=_size, default=(120, 160), metavar='HxW', help='of a view (default: 120x160)')
    parser.add_argument('--points', type=int, default=200_000, help='default: 200000')
    parser.add_argument('--proposals', type=int, default=300, help='masks on the points (default: 300)')
    parser.add_argument('--repeats', type=int, default=7, help='timed runs of each, in turn (default: 7)')
    parser.add_argument('--json', type=Path, metavar='OUT', help='write all numbers to this file')
    args = parser.parse_args(arguments)
    if min(args.scenes, args.slow_scenes, args.views, args.proposals, args.repeats) < 1 or args.points < 1000:
        parser.error('all counts must be at least 1, --points at least 1000')
    return args


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r'(\d+)x(\d+)', text)
    if match is None or min(int(match[1]), int(match[2])) < 16:
        raise argparse.ArgumentTypeError(f'expected HEIGHTxWIDTH of at least 16x16 such as 120x160, got {text!r}')
    return int(match[1]), int(match[2])


def measure(task: str, ours_run: Run, labels: Any, peers: Sequence[Evaluator], repeats: int) -> list[dict[str, Any]]:
    """One row for us and one for every peer that is installed.

    A row has its largest difference from our scores, and `ratio`, its time in ours.
    """
    print(f'{task}: {", ".join(peer.name for peer in peers)}', file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        runs = {'ours': ours_run}
        for number, peer in enumerate(peers):
            path = Path(folder, str(number))
            path.mkdir()
            runs[peer.name] = peer.prepare(labels, path)
        scores = {name: run() for name, run in runs.items()}  # and warm up
        memory = {name: peak_process_memory(run) for name, run in runs.items()}
        seconds = time_alternately(runs, repeats, CPU)
    rows = []
    for name in runs:
        peer = next((peer for peer in peers if peer.name == name), None)
        difference = max(abs(float(scores[name][key]) - value) for key, value in scores['ours'].items())
        rows.append(
            {
                'task': task,
                'evaluator': name,
                'scores': scores[name],
                'difference': difference,
                'agrees': bool(difference <= (peer.tolerance if peer else 0)),
                'seconds': seconds[name],
                'median_seconds': median(seconds[name]),
                'min_seconds': min(seconds[name]),
                'ratio': median(seconds[name]) / median(seconds['ours']),
                'ratio_of_min': min(seconds[name]) / min(seconds['ours']),
                'wanted_ratio': peer.wanted if peer else None,
                'peak_bytes': memory[name],
            }
        )
    return rows


def measure_all(args: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Rows, and why evaluators are left out."""
    reasons = {peer.name: missing(peer.module) for peer in (*PANOPTIC, *OVERLAPPING, *DISJOINT)}
    skipped = {name: reason for name, reason in reasons.items() if reason is not None}

    def installed(peers: Sequence[Evaluator], *, slow: bool = False) -> list[Evaluator]:
        return [peer for peer in peers if peer.name not in skipped and peer.slow == slow]

    height, width = args.size
    rows: list[dict[str, Any]] = []
    scenes = [random_room(args.views, height, width, seed=seed) for seed in range(args.scenes)]
    for protocol, images in (('pq_scene_pooled', scenes), ('pq_view', views_of(scenes))):
        task = f'{protocol} {args.scenes} x {args.views} x {height}x{width}'
        rows += measure(task, ours(scenes, protocol, 'coco'), images, installed(PANOPTIC), args.repeats)
    few = scenes[: args.slow_scenes]
    for peer in installed(PANOPTIC, slow=True):
        task = f'pq_scene_pooled {len(few)} x {args.views} x {height}x{width}'
        rows += measure(task, ours(few, 'pq_scene_pooled', peer.rules), few, [peer], args.repeats)
    del scenes, few, images
    gt, proposals = random_points(args.points, args.proposals, seed=0)
    for name, masks, peers in (
        ('overlapping', proposals, OVERLAPPING),
        ('disjoint', without_overlap(proposals), DISJOINT),
    ):
        task = f'AP {args.points} x {args.proposals}, {name}'
        rows += measure(task, ours_points((gt, masks)), (gt, masks), installed(peers), args.repeats)
    return rows, skipped


def describe_machine() -> dict[str, object]:
    return {
        'machine': platform.machine(),
        'threads': torch.get_num_threads(),
        'torch': torch.__version__,
        'numpy': np.__version__,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        f'{"task":38} {"evaluator":26} {"median ms":>10} {"min ms":>10} {"ratio":>8} {"of min":>8} {"wanted":>7} '
        f'{"peak MiB":>9} {"difference":>10}'
    ]
    for row in rows:
        peak = 'n/a' if row['peak_bytes'] is None else f'{row["peak_bytes"] / MIB:.1f}'
        wanted = '' if row['wanted_ratio'] is None else f'{row["wanted_ratio"]:g}'
        lines.append(
            f'{row["task"]:38} {row["evaluator"]:26} {1e3 * row["median_seconds"]:10.1f} '
            f'{1e3 * row["min_seconds"]:10.1f} {row["ratio"]:8.2f} {row["ratio_of_min"]:8.2f} {wanted:>7} '
            f'{peak:>9} {row["difference"]:10.1e}'
        )
    return '\n'.join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    rows, skipped = measure_all(args)
    machine = describe_machine()
    print(table(rows))
    for name, reason in skipped.items():
        print(f'skipped: {name}, {reason}')
    print(', '.join(f'{key} {value}' for key, value in machine.items()) + f'; median of {args.repeats}')
    if args.json is not None:
        content = {'machine': machine, 'results': rows, 'skipped': skipped}
        args.json.write_text(json.dumps(content, indent=1) + '\n')
    wrong = [f'{row["task"]}: {row["evaluator"]}' for row in rows if not row['agrees']]
    if wrong:
        print(f'error: the scores are not ours: {wrong}', file=sys.stderr)
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
