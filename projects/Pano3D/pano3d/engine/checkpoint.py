"""Strict and safe loading of weights."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import nn

_SHOWN = 5


def load_model_weights(model: nn.Module, path: str | Path) -> None:
    """Load weights strictly from a checkpoint written by training, or from a bare state dict.

    Raises:
        ValueError: if the file is missing, is no checkpoint, or does not fit the model key for key and shape for shape.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f'{path}: no such checkpoint')
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f'{path}: not a checkpoint that can be read safely, without running code in it') from error
    state = content.get('state_dict', content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(
            f"{path}: expected a dict with 'state_dict', or a dict of tensors; found {type(content).__name__}"
        )
    problems = _differences(model.state_dict(), state)
    if problems:
        raise ValueError(f'{path} does not fit the model of this config:\n  ' + '\n  '.join(problems))
    model.load_state_dict(state)


def _differences(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> list[str]:
    problems = []
    for what, keys in (('missing', expected.keys() - found.keys()), ('unexpected', found.keys() - expected.keys())):
        if keys:
            problems.append(f'{len(keys)} {what} keys, e.g. {sorted(keys)[:_SHOWN]}')
    wrong = [
        f'{key}: expected {tuple(expected[key].shape)}, found {tuple(found[key].shape)}'
        for key in sorted(expected.keys() & found.keys())
        if expected[key].shape != found[key].shape
    ]
    if wrong:
        problems += [f'{len(wrong)} keys of another shape:', *wrong[:_SHOWN]]
        if any('classifier' in line for line in wrong):
            problems.append('the classifier differs: was the checkpoint trained on another label space?')
    return problems
