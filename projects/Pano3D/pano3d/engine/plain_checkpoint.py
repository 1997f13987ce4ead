"""Training state without pickled objects, so that torch's safe loader can read it back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner

from pano3d.registry import HOOKS


@HOOKS.register_module()
class PlainCheckpointHook(Hook):
    """Writes mmengine's log history into checkpoints as tensors, and restores it when a run is resumed.

    mmengine pickles its `HistoryBuffer` with references to methods. torch >= 2.6 rightly refuses those
    (`weights_only=True`), so no run could be resumed; allowing them would mean allowing `getattr` to any file.
    """

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        state = checkpoint['message_hub']
        checkpoint['message_hub'] = {
            'log_scalars': {key: _pack(value) for key, value in state['log_scalars'].items()},
            'runtime_info': {key: _plain(value) for key, value in state['runtime_info'].items()},
            'resumed_keys': dict(state['resumed_keys']),
        }

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        state = checkpoint.get('message_hub')
        if state:
            state['log_scalars'] = {key: _unpack(value) for key, value in state['log_scalars'].items()}


def _pack(history: HistoryBuffer) -> dict[str, Any]:
    log, count = history.data
    return {'log': torch.as_tensor(log), 'count': torch.as_tensor(count), 'max_length': history.max_length}


def _unpack(packed: Mapping[str, Any] | HistoryBuffer) -> HistoryBuffer:
    if isinstance(packed, HistoryBuffer):
        return packed
    return HistoryBuffer(packed['log'].numpy(), packed['count'].numpy(), packed['max_length'])


def _plain(value: Any) -> Any:
    """NumPy scalars and arrays as numbers and tensors, also inside containers."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.as_tensor(value)
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(entry) for entry in value)
    return value
