"""Strict and safe loading of a whole model."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from pano3d.models.loading import load_strictly, read_file, tensors_of


def load_model_weights(model: nn.Module, path: str | Path) -> None:
    """Load weights strictly from a checkpoint written by training, or from a bare state dict.

    Raises:
        ValueError: if the file is missing, is no checkpoint, or does not fit the model name for name and shape for
            shape.
    """
    path = Path(path)
    state = tensors_of(read_file(path), path, levels=('state_dict',))
    expected = model.state_dict()
    try:
        load_strictly(model, state, path)
    except ValueError as error:
        shared = [name for name in expected.keys() & state.keys() if 'classifier' in name]
        if any(expected[name].shape != state[name].shape for name in shared):
            raise ValueError(f'{error}\nThe classifier differs: was it trained on another label space?') from error
        raise
