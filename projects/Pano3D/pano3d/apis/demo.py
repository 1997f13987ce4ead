"""The whole path at small size: rooms -> scenes -> joint training -> evaluation -> pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner, set_random_seed

from pano3d.conversion import convert_scannet
from pano3d.conversion.synthetic_rooms import RecordingOptions, write_rooms
from pano3d.engine import configure_processes
from pano3d.models import LayoutBaseline
from pano3d.registry import DATASETS, MODELS
from pano3d.structures import LabelSpace
from pano3d.visualization import save_training_curves

from .evaluation import evaluate
from .outputs import format_metrics, save_outputs

# Without the tint the same training reaches a quarter of the PQ (docs/decisions/0008-demo.md).
ROOMS = RecordingOptions(num_frames=10, class_tint=0.75)
HEADLINE = {
    'scannet20/pq_scene_mean/pixels/PQ': 'PQ',
    'scannet20/pq_scene_mean/pixels/SQ': 'SQ',
    'scannet20/pq_scene_mean/pixels/RQ': 'RQ',
    'scannet20/miou/pixels/mIoU': 'mIoU',
    'depth_per_view/own_geometry/AbsRel': 'AbsRel',
    'depth_per_view/own_geometry/tau': 'tau',
}


def run_demo(
    config: Config, out: Path, *, raw: Path, train_rooms: int, held_out_rooms: int, pictures: int, num_workers: int
) -> dict[str, dict[str, float]]:
    """Make rooms, train, evaluate, draw.

    Writes below `out`: `metrics.json`, `metrics.md`, `training_curves.png`, `scenes/<scene>/` (see `save_outputs`) and
    `training/` (logs, checkpoints). Rooms that exist already are used again; training starts anew.

    Args:
        config: trains on `train_dataloader.dataset.data_root`, tests on that of `test_dataloader`; both are written.
        out: output folder.
        raw: folder for the rooms in raw ScanNet layout.
        train_rooms: rooms to train on, of seed 0.
        held_out_rooms: rooms to test on, of seed 1.
        pictures: held-out rooms to draw.
        num_workers: processes for making and converting rooms.

    Returns:
        Metrics by key for 'trained', 'untrained' and 'layout baseline'.
    """
    configure_processes(config, 'none')
    config.work_dir = str(out / 'training')
    parts = {
        'train': (0, train_rooms, 0, config.train_dataloader.dataset.data_root),
        'held_out': (1, 0, held_out_rooms, config.test_dataloader.dataset.data_root),
    }
    for name, (seed, train, val, scenes) in parts.items():
        with _step(f'{name}: {train + val} rooms'):
            write_rooms(raw / name, train=train, val=val, seed=seed, options=ROOMS, num_workers=num_workers)
        with _step(f'{name}: conversion'):
            summary = convert_scannet(raw / name, scenes, frame_skip=1, num_workers=num_workers)
            if summary.failed:
                raise RuntimeError(f'conversion of made-up rooms failed: {summary.failed}')
    with _step('training'):
        trained = Runner.from_cfg(config).train()
    with _step('evaluation'):
        results = _evaluate_all(config, trained, out / 'evaluation')
    with _step('pictures'):
        _draw(config, trained, out, pictures)
    (out / 'metrics.json').write_text(json.dumps(results, indent=2) + '\n')
    table = format_metrics(
        {run: {short: values[key] for key, short in HEADLINE.items()} for run, values in results.items()}
    )
    (out / 'metrics.md').write_text(table + '\n')
    print(f'\n{held_out_rooms} held-out rooms; PQ is pq_scene_mean, depth is median-aligned per view:\n{table}')
    return results


@contextmanager
def _step(name: str) -> Iterator[None]:
    start = time.monotonic()
    print(f'== {name}', flush=True)
    yield
    print(f'== {name}: {time.monotonic() - start:.0f} s', flush=True)


def _evaluate_all(config: Config, trained: torch.nn.Module, work_dir: Path) -> dict[str, dict[str, float]]:
    with DefaultScope.overwrite_default_scope(config.default_scope):
        set_random_seed(config.randomness.seed)
        untrained = MODELS.build(config.model)
        untrained.init_weights()
        training_scenes = DATASETS.build(
            {**config.train_dataloader.dataset, 'pipeline': config.test_dataloader.dataset.pipeline}
        )
    image_size = training_scenes[0]['inputs'].shape[-2:]
    baseline = LayoutBaseline(
        label_space=config.label_space, image_size=tuple(image_size), data_preprocessor=config.model.data_preprocessor
    )
    baseline.fit(training_scenes[index]['data_samples'].unpacked() for index in range(len(training_scenes)))
    models = {'trained': trained, 'untrained': untrained, 'layout baseline': baseline}
    return {name: evaluate(config, model, work_dir) for name, model in models.items()}


def _draw(config: Config, model: torch.nn.Module, out: Path, pictures: int) -> None:
    save_training_curves(config.work_dir, out / 'training_curves.png')
    dataset = DATASETS.build(config.test_dataloader.dataset)
    label_space = LabelSpace.load(config.label_space)
    model.eval()
    for index in range(min(pictures, len(dataset))):
        item = dataset[index]
        with torch.no_grad():
            [sample] = model.test_step({'inputs': [item['inputs']], 'data_samples': [item['data_samples']]})
        save_outputs(sample.to('cpu'), label_space, out / 'scenes' / sample.scene_id)
