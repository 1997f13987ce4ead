"""Released weights are data: where they come from, what may be read, and a strict comparison by name and shape."""

from __future__ import annotations

import pickle
import zipfile
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from urllib.parse import urlparse

import torch
from mmengine import dist
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

SHOWN = 3


def local_copy(location: str) -> Path:
    """The file itself, or a download of an http(s) address, kept in torch's hub folder under its full address.

    Raises:
        ValueError: if there is no such file or it cannot be downloaded.
    """
    address = urlparse(location)
    if address.scheme in ('http', 'https'):
        # not by base name alone, as torch.hub does: most released files are called `model.safetensors`
        path = Path(torch.hub.get_dir(), 'checkpoints', address.netloc, address.path.lstrip('/'))
        if dist.is_main_process():
            _download(location, path)
        dist.barrier()
        _download(location, path)  # machines that share no folder with the first one
        return path
    path = Path(location).expanduser()
    if not path.is_file():
        raise ValueError(f'{path}: no such file; give the path or the http(s) address of the released weights')
    return path


def _download(location: str, path: Path) -> None:
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(location, str(path), progress=dist.is_main_process())
    except OSError as error:
        raise ValueError(f'{location}: cannot be downloaded ({error}); fetch it by hand and give its path') from error


def read_file(path: Path) -> object:
    """The content of a .safetensors file or of a PyTorch file without arbitrary pickles.

    Raises:
        ValueError: if the file is neither.
    """
    try:
        if path.suffix == '.safetensors':
            return load_file(path)
        return torch.load(path, map_location='cpu', weights_only=True, mmap=zipfile.is_zipfile(path))
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f'{path}: expected weights as .safetensors or as a PyTorch file of tensors alone, found something that '
            f'cannot be read safely ({reason}); the file may be incomplete, or its weights must be saved alone'
        ) from error


def tensors_of(content: object, path: Path, *, levels: Collection[str] = ('model',)) -> dict[str, Tensor]:
    """The state dict in the content of a file: the content itself or what it holds under one of `levels`.

    Raises:
        ValueError: if there is none.
    """
    if isinstance(content, Mapping):
        for candidate in (*(content[level] for level in levels if level in content), content):
            if isinstance(candidate, Mapping) and candidate and all(map(torch.is_tensor, candidate.values())):
                return dict(candidate)
    found = (
        f'a dict with {sorted(map(str, content))[:SHOWN]}' if isinstance(content, Mapping) else type(content).__name__
    )
    raise ValueError(f'{path}: expected tensors by name, at the top or under {list(levels)}, found {found}')


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Fill the module; every name and every shape must agree.

    Raises:
        ValueError: naming the file, what was expected and what was found.
    """
    expected = module.state_dict()
    wrong_shapes = sorted(name for name in expected.keys() & state.keys() if expected[name].shape != state[name].shape)
    problems = [
        *_explain('missing', expected.keys() - state.keys()),
        *_explain('unexpected', state.keys() - expected.keys()),
        *_explain('of another shape', wrong_shapes),
        *(
            f'  {name}: expected {tuple(expected[name].shape)}, found {tuple(state[name].shape)}'
            for name in wrong_shapes[:SHOWN]
        ),
    ]
    if problems:
        raise ValueError(
            f'{path} does not hold the weights of {type(module).__name__} as configured: expected {len(expected)} '
            f'names, found {len(state)}.\n'
            + '\n'.join(problems)
            + '\nGive the file of this network, or the sizes and heads of the file in the config.'
        )
    module.load_state_dict(state)


def _explain(what: str, names: Collection[str]) -> list[str]:
    """One line per part of the network: how many of its names, and examples."""
    parts = Counter(name.partition('.')[0] for name in names)
    lines = []
    for part, count in sorted(parts.items()):
        examples = sorted(name for name in names if name.partition('.')[0] == part)[:SHOWN]
        lines.append(f'  {count} {what} in {part}: {", ".join(examples)}{", ..." if count > SHOWN else ""}')
    return lines
