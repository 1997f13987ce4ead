"""Samples per second of one data loading process: python tools/benchmarks/data_loading.py."""

from __future__ import annotations

import argparse
import io
import json
import platform
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
from conversion import COLOR_SIZE, DEPTH_SIZE, write_recording
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader

from pano3d.conversion.images import encode_png
from pano3d.conversion.scannet_frames import store_frames
from pano3d.conversion.scannet_scan import Scan
from pano3d.conversion.scene_store import ConversionReport, new_scene, write_scene_record, write_split
from pano3d.datasets import InfiniteDrawSampler
from pano3d.models.data_preprocessor import SceneDataPreprocessor
from pano3d.registry import DATASETS

DATA = Path(__file__).parents[2] / 'configs' / '_base_' / 'datasets' / 'scannet20.py'
SCENE = 'scene0000_00'
KINDS = ('plain', 'recipe', 'reduced')


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='How fast the training pipeline of configs/_base_/datasets/scannet20.py makes samples: CPU time of '
        'each transform in one process with one thread, and samples per second and bytes from one worker process, on a '
        f'synthetic stored scene (colour {COLOR_SIZE[0]}x{COLOR_SIZE[1]}, depth {DEPTH_SIZE[0]}x{DEPTH_SIZE[1]}). '
        'In turns: `recipe`; `plain`, which makes points and int64 labels in the worker; `reduced`, which decodes '
        'colour at a half of its size or less (`min_size` of LoadViews).',
        epilog='Exit status: 0, or 2 on bad arguments.',
    )
    parser.add_argument('--views', type=int, default=15, help='per sample (default: 15)')
    parser.add_argument('--size', type=_size, default=(384, 512), metavar='HxW', help='of them (default: 384x512)')
    parser.add_argument('--samples', type=int, default=8, help='timed ones of each kind and turn (default: 8)')
    parser.add_argument('--turns', type=int, default=3, help='medians are over all samples of all turns (default: 3)')
    parser.add_argument('--workers', type=int, default=4, help='for which to say what keeps up (default: 4)')
    parser.add_argument('--seed', type=int, default=0, help='of scene and samples (default: 0)')
    parser.add_argument('--json', type=Path, metavar='OUT', help='write all numbers to this file')
    args = parser.parse_args(arguments)
    if min(args.views, args.samples, args.turns, args.workers) < 1:
        parser.error('--views, --samples, --turns and --workers must be at least 1')
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


def build_dataset(root: Path, views: int, size: tuple[int, int], *, kind: str, seed: int) -> Any:
    """The training data set of the recipes, with other views; see the description of the command for `kind`."""
    config = Config.fromfile(DATA)
    pipeline = [dict(step) for step in config.train_pipeline]
    pipeline[0]['num_views'], pipeline[2]['size'] = views, size
    if kind == 'reduced':
        pipeline[1]['min_size'] = size
    dataset = config.train_dataloader.dataset
    dataset.update(data_root=str(root), min_frames=views, seed=seed, pipeline=pipeline)
    built = DATASETS.build(dataset)
    if kind == 'plain':
        built.pipeline.transforms.append(Unpack())
    return built


class Unpack:
    """What the data preprocessor does on the device, in the worker."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        return {**results, 'data_samples': results['data_samples'].unpacked()}


def time_transforms(dataset: Any, samples: int) -> dict[str, list[float]]:
    """CPU seconds of each step for each sample; one more sample comes first and is not counted."""
    seconds: dict[str, list[float]] = {}
    for number in range(samples + 1):
        start = time.process_time()
        results = {**dataset.get_data_info(number), 'rng': np.random.default_rng([dataset.seed, number])}
        taken = {'scene.json': time.process_time() - start}
        for step in dataset.pipeline.transforms:
            start = time.process_time()
            results = step(results)
            taken[type(step).__name__] = time.process_time() - start
        if number > 0:
            for name, value in taken.items():
                seconds.setdefault(name, []).append(value)
    return seconds


def time_worker(dataset: Any, samples: int) -> list[float]:
    """Seconds between samples that come from one worker process, after the first two."""
    loader = DataLoader(
        dataset,
        batch_size=1,
        num_workers=1,
        sampler=InfiniteDrawSampler(dataset=dataset, shuffle=False, seed=0),
        collate_fn=list,
        worker_init_fn=_one_thread,
    )
    batches = iter(loader)
    for _ in range(2):
        next(batches)
    seconds = []
    for _ in range(samples):
        start = time.perf_counter()
        next(batches)
        seconds.append(time.perf_counter() - start)
    return seconds


def size_of(sample: dict[str, Any]) -> int:
    """Bytes of a sample as it is copied from process to process."""
    stream = io.BytesIO()
    torch.save(sample, stream)
    return stream.tell()


def time_preprocessor(sample: dict[str, Any], device: str, repeats: int = 5) -> float:
    """Seconds that the step waits for the copy to the device and the unpacking there; median."""
    preprocessor, seconds = SceneDataPreprocessor().to(device), []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        batch = preprocessor(pseudo_collate([sample]))
        batch['data_samples'][0].gt_reconstruction.points.sum().item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return median(seconds[1:])


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def measure(root: Path, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """All numbers of each kind; the order of the kinds is reversed from turn to turn."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    datasets = {kind: build_dataset(root, args.views, args.size, kind=kind, seed=args.seed) for kind in KINDS}
    cpu: dict[str, dict[str, list[float]]] = {kind: {} for kind in KINDS}
    clock: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for turn in range(args.turns):
        for kind in KINDS if turn % 2 == 0 else KINDS[::-1]:
            for step, seconds in time_transforms(datasets[kind], args.samples).items():
                cpu[kind].setdefault(step, []).extend(seconds)
            clock[kind] += time_worker(datasets[kind], args.samples)
    results = {}
    for kind, dataset in datasets.items():
        sample, per_sample = dataset[0], sum(clock[kind]) / len(clock[kind])
        results[kind] = {
            'cpu_seconds': cpu[kind],
            'median_cpu_seconds': {step: median(seconds) for step, seconds in cpu[kind].items()},
            'seconds_of_a_worker': clock[kind],
            'samples_per_second_of_a_worker': 1 / per_sample,
            'shortest_step_seconds': per_sample / args.workers,
            'bytes_per_sample': size_of(sample),
            'preprocessor_seconds': time_preprocessor(sample, device),
        }
    return results


def print_results(results: dict[str, dict[str, Any]], workers: int) -> None:
    """One column per kind."""
    print(f'{"":36}' + ''.join(f'{kind:>10}' for kind in results))

    def row(name: str, values: Iterable[float], digits: int = 1) -> None:
        print(f'{name:36}' + ''.join(f'{value:10.{digits}f}' for value in values))

    for step in results['plain']['median_cpu_seconds']:
        row(f'{step}, ms of CPU', [1e3 * r['median_cpu_seconds'].get(step, 0) for r in results.values()])
    row('all of these', [1e3 * sum(r['median_cpu_seconds'].values()) for r in results.values()])
    row('samples/s of one worker, by the clock', [r['samples_per_second_of_a_worker'] for r in results.values()], 2)
    row('MB per sample from the worker', [r['bytes_per_sample'] / 1e6 for r in results.values()])
    row('ms in the data preprocessor', [1e3 * r['preprocessor_seconds'] for r in results.values()])
    row(f'{workers} workers keep up with steps of ms', [1e3 * r['shortest_step_seconds'] for r in results.values()])


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    _one_thread(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_stored_scene(root, args.views + 5, seed=args.seed)
        results = measure(root, args)
    print_results(results, args.workers)
    machine = {
        'machine': platform.machine(),
        'device': torch.cuda.get_device_name() if torch.cuda.is_available() else 'cpu',
        'opencv': cv2.__version__,
        'torch': torch.__version__,
    }
    settings = {key: getattr(args, key) for key in ('views', 'size', 'samples', 'turns', 'workers', 'seed')}
    print(', '.join(f'{key} {value}' for key, value in {**machine, **settings}.items()))
    if args.json is not None:
        report = {'machine': machine, 'settings': settings, 'results': results}
        args.json.write_text(json.dumps(report, indent=1) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
