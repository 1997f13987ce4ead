"""What is decided before a run starts: are its inputs there, and how do its processes talk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

_DATA_HELP = (
    'get ScanNet from its authors (its terms of use must be signed), then run\n'
    '    python tools/prepare_scannet.py RAW_SCANNET {root}\n'
    'or point `data_root` elsewhere with --cfg-options'
)
_WEIGHTS_HELP = (
    'download the official weights (docs/get_started.md says where from and under which licence) to this path,\n'
    '    or give another one with --cfg-options {place}=PATH'
)


def check_inputs(config: Config, *, training: bool = True) -> None:
    """Look for the data and the pretrained weights that a config names, before anything large is built.

    Only local paths are looked at; URLs and remote stores are left to their back end.

    Raises:
        FileNotFoundError: listing everything that is missing, where it was looked for and how to get it.
    """
    problems = []
    loaders = ('train_dataloader', 'val_dataloader') if training else ('test_dataloader',)
    for name in loaders:
        dataset = (config.get(name) or {}).get('dataset') or {}
        root, index = dataset.get('data_root'), dataset.get('ann_file')
        if root and index and _is_local(root) and not (Path(root) / index).is_file():
            problems.append((f'{name}: no {Path(root) / index}', _DATA_HELP.format(root=root)))
    if training and not config.get('resume') and not config.get('load_from'):
        for place, checkpoint in _checkpoints(config.get('model') or {}, 'model'):
            if _is_local(checkpoint) and not Path(checkpoint).is_file():
                problems.append((f'{place}: no {checkpoint}', _WEIGHTS_HELP.format(place=place)))
    if problems:
        lines = [f'{what} (looked in {Path.cwd()})\n    {remedy}' for what, remedy in dict(problems).items()]
        raise FileNotFoundError('\n'.join(lines) + '\n`make demo` needs neither ScanNet nor weights.')


def configure_processes(config: Config, launcher: str) -> None:
    """Set the launcher, and the back end that this machine can use: NCCL needs CUDA, Gloo does not."""
    config.launcher = launcher
    if not torch.cuda.is_available():
        config.env_cfg.dist_cfg.backend = 'gloo'
        if launcher == 'pytorch':
            # Left alone, mmengine would select a CUDA device in both places.
            config.model_wrapper_cfg = dict(type='MMDistributedDataParallel', broadcast_buffers=False, device_ids=None)
            if not torch.distributed.is_initialized():
                torch.distributed.init_process_group('gloo')


def _is_local(path: str) -> bool:
    return '://' not in path


def _checkpoints(node: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        init = node.get('init_cfg')
        if isinstance(init, dict) and init.get('type') == 'Pretrained':
            yield f'{place}.init_cfg.checkpoint', init['checkpoint']
        for key, value in node.items():
            yield from _checkpoints(value, f'{place}.{key}')
