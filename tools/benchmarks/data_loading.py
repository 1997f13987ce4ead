"""Samples per second of one data loading process: python tools/benchmarks/data_loading.py."""

from __future__ import annotations

import argparse
import json
import platform
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
from conversion import COLOR_SIZE, DEPTH_SIZE, write_recording
from mmengine.config import Config
from torch.utils.data import DataLoader

from pano3d.conversion.images import encode_png
from pano3d.conversion.scannet_frames import store_frames
from pano3d.conversion.scannet_scan import Scan
from pano3d.conversion.scene_store import ConversionReport, new_scene, write_scene_record, write_split
from pano3d.datasets import InfiniteDrawSampler
from pano3d.registry import DATASETS

DATA = Path(__file__).parents[2] / 'configs' / '_base_' / 'datasets' / 'scannet20.py'
SCENE = 'scene0000_00'


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Samples per second of the training pipeline of configs/_base_/datasets/scannet20.py in one '
        f'process with one thread, and what each transform takes, on a synthetic stored scene (colour '
        f'{COLOR_SIZE[0]}x{COLOR_SIZE[1]}, depth {DEPTH_SIZE[0]}x{DEPTH_SIZE[1]}).',
        epilog='Exit status: 0, or 2 on bad arguments.',
    )
    parser.add_argument('--views', type=int, default=15, help='per sample (default: 15)')
    parser.add_argument('--size', type=_size, default=(384, 512), metavar='HxW', help='of them (default: 384x512)')
    parser.add_argument('--samples', type=int, default=8, help='timed ones (default: 8)')
    parser.add_argument(
        '--full-size', action='store_true', help='decode all pixels of colour (default: a half or less where it covers)'
    )
    parser.add_argument('--seed', type=int, default=0, help='of scene and samples (default: 0)')
    parser.add_argument('--json', type=Path, metavar='OUT', help='write all numbers to this file')
    args = parser.parse_args(arguments)
    if min(args.views, args.samples) < 1:
        parser.error('--views and --samples must be at least 1')
    return args


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r'(\d+)x(\d+)', text)
    if match is None:
        raise argparse.ArgumentTypeError(f'expected HEIGHTxWIDTH such as 384x512, got {text!r}')
    return int(match[1]), int(match[2])


def write_stored_scene(root: Path, num_frames: int, *, seed: int) -> None:
    """A scene of so many frames with instance maps of forty rectangles, and the list `train.json`."""
    recording = root / 'raw' / 'scans_test' / SCENE / f'{SCENE}.sens'
    recording.parent.mkdir(parents=True)
    write_recording(recording, num_frames, seed=seed)
    random = np.random.default_rng(seed)
    with new_scene(root, SCENE) as folder:
        frames, depth_scale = store_frames(
            Scan(recording.parent), folder, frame_skip=1, instance_ids=(), rasteriser=None, report=ConversionReport()
        )
        for frame in frames:
            frame['instance'] = f'instance/{frame["id"]}.png'
            (folder / frame['instance']).write_bytes(encode_png(_instances(random)))
        record = {
            'scene_id': SCENE,
            'source': 'scannet_v2',
            'depth_scale': depth_scale,
            'axis_alignment': None,
            'frames': frames,
            'instances': [{'id': i, 'raw_category': 'chair', 'scannet_id': 2, 'nyu40_id': 5} for i in range(1, 41)],
            'mesh': None,
        }
        write_scene_record(folder, record)
    write_split(root, 'train', [(SCENE, len(frames))])


def _instances(random: np.random.Generator) -> np.ndarray:
    image = np.zeros((COLOR_SIZE[1], COLOR_SIZE[0]), np.uint8)
    for instance in range(1, 41):
        (top, left), (height, width) = random.integers(0, (COLOR_SIZE[1], COLOR_SIZE[0])), random.integers(50, 300, 2)
        image[top : top + height, left : left + width] = instance
    return image


def build_dataset(root: Path, views: int, size: tuple[int, int], *, full_size: bool, seed: int) -> Any:
    """The training data set of the recipes, with other views."""
    config = Config.fromfile(DATA)
    pipeline = config.train_pipeline
    pipeline[0].num_views, pipeline[2].size = views, size
    pipeline[1].min_size = None if full_size else size
    dataset = config.train_dataloader.dataset
    dataset.update(data_root=str(root), min_frames=views, seed=seed, pipeline=pipeline)
    return DATASETS.build(dataset)


def time_transforms(dataset: Any, samples: int) -> dict[str, list[float]]:
    """CPU seconds of each step for each sample; one more sample comes first and is not counted."""
    seconds: dict[str, list[float]] = {}
    steps = dataset.pipeline.transforms
    for number in range(samples + 1):
        start = time.process_time()
        results = {**dataset.get_data_info(number), 'rng': np.random.default_rng([dataset.seed, number])}
        taken = {'scene.json': time.process_time() - start}
        for step in steps:
            start = time.process_time()
            results = step(results)
            taken[type(step).__name__] = time.process_time() - start
        if number > 0:
            for name, value in taken.items():
                seconds.setdefault(name, []).append(value)
    return seconds


def time_worker(dataset: Any, samples: int) -> float:
    """Seconds per sample that comes from one worker process, after the first two."""
    loader = DataLoader(
        dataset,
        batch_size=1,
        num_workers=1,
        sampler=InfiniteDrawSampler(dataset=dataset, shuffle=False),
        collate_fn=list,
        worker_init_fn=_one_thread,
    )
    batches = iter(loader)
    for _ in range(2):
        next(batches)
    start = time.perf_counter()
    for _ in range(samples):
        next(batches)
    return (time.perf_counter() - start) / samples


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    _one_thread(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_stored_scene(root, args.views + 5, seed=args.seed)
        dataset = build_dataset(root, args.views, args.size, full_size=args.full_size, seed=args.seed)
        seconds = time_transforms(dataset, args.samples)
        per_sample = time_worker(dataset, args.samples)
    medians = {name: median(values) for name, values in seconds.items()}
    total = sum(medians.values())
    for name, value in medians.items():
        print(f'{name:20} {1e3 * value:8.1f} ms {100 * value / total:5.1f} %')
    print(f'{"all of these":20} {1e3 * total:8.1f} ms of a core, {1 / total:.2f} samples/s')
    print(f'{"from one worker":20} {1e3 * per_sample:8.1f} ms by the clock, {1 / per_sample:.2f} samples/s')
    machine = {'machine': platform.machine(), 'opencv': cv2.__version__, 'torch': torch.__version__}
    print(
        ', '.join(f'{key} {value}' for key, value in machine.items())
        + f'; {args.views} views of {args.size[0]}x{args.size[1]}, {args.samples} samples'
    )
    if args.json is not None:
        result = {
            'views': args.views,
            'size': list(args.size),
            'full_size': args.full_size,
            'cpu_seconds': seconds,
            'median_cpu_seconds': medians,
            'samples_per_cpu_second': 1 / total,
            'samples_per_second_of_a_worker': 1 / per_sample,
        }
        args.json.write_text(json.dumps({'machine': machine, 'result': result}, indent=1) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
