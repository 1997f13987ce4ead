"""Released weights are data: where they come from, what may be read, and a strict comparison by name and shape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from urllib.parse import urlparse

import torch
from mmengine import dist
from mmengine.model import BaseModule, PretrainedInit
from torch import Tensor, nn

from .weight_files import read_file

SHOWN = 3
WRAPPER = 'module.'

__all__ = [
    'differences',
    'load_strictly',
    'local_copy',
    'not_finite',
    'pretrained_checkpoint',
    'read_file',
    'rename',
    'tensors_of',
]


def pretrained_checkpoint(module: BaseModule) -> str | None:
    """What `init_cfg=dict(type='Pretrained', checkpoint=PATH_OR_ADDRESS)` of a module names; None with any other.

    Raises:
        ValueError: if `init_cfg` says more than that.
    """
    configs = [module.init_cfg] if isinstance(module.init_cfg, dict) else list(module.init_cfg or [])
    if not any(config.get('type') in ('Pretrained', PretrainedInit) for config in configs):
        return None
    if len(configs) > 1 or set(configs[0]) != {'type', 'checkpoint'}:
        raise ValueError(
            f"`init_cfg` of {type(module).__name__} must be dict(type='Pretrained', checkpoint=...) alone to load "
            f'weights, got {module.init_cfg}'
        )
    return configs[0]['checkpoint']


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


def tensors_of(
    content: object, path: Path, *, levels: Collection[str] = ('model', 'state_dict'), parts: Collection[str] = ()
) -> dict[str, Tensor]:
    """The state dict in the content of a file: what it holds under one of `levels`, or the content itself.

    A `module.` before all names, which data-parallel training leaves, is taken off.

    Args:
        content: what `read_file` returned.
        path: for messages.
        levels: names under which trainers keep the weights, tried in this order.
        parts: names of state dicts that together are the network; `weight` of part `encoder` becomes
            `encoder.weight`. A file that is flat already may have these prefixes in its names.

    Raises:
        ValueError: if there is none.
    """
    if isinstance(content, Mapping):
        if parts and all(_is_state(content.get(part)) for part in parts):
            return {f'{part}.{name}': value for part in parts for name, value in _bare(content[part]).items()}
        for candidate in (*(content[level] for level in levels if level in content), content):
            if _is_state(candidate):
                return _bare(candidate)
    found = f'a dict with {_listed(map(str, content))}' if isinstance(content, Mapping) else type(content).__name__
    places = [f'under {list(levels)}'] + ([f'in the parts {list(parts)}'] if parts else [])
    raise ValueError(f'{path}: expected tensors by name, at the top, {" or ".join(places)}, found {found}')


def _is_state(candidate: object) -> bool:
    return (
        isinstance(candidate, Mapping)
        and bool(candidate)
        and all(isinstance(name, str) and torch.is_tensor(value) for name, value in candidate.items())
    )


def _bare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if all(name.startswith(WRAPPER) for name in state):
        return {name.removeprefix(WRAPPER): value for name, value in state.items()}
    return dict(state)


def rename(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors with the longest prefix of `names` that fits each replaced by what it maps to.

    Raises:
        ValueError: if two tensors would get one name.
    """
    prefixes = sorted(names, key=len, reverse=True)
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        new = name if prefix is None else names[prefix] + name[len(prefix) :]
        if new in renamed:
            raise ValueError(f'two tensors would be called {new!r}; one of them was {name!r}')
        renamed[new] = value
    return renamed


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Fill the module; every name and every shape must agree, and every value must be finite.

    Values of another floating-point type are converted to that of the module.

    Raises:
        ValueError: naming the file, what was expected and what was found.
    """
    expected = module.state_dict()
    problems = differences(expected, state)
    if problems:
        raise ValueError(
            f'{path} does not hold the weights of {type(module).__name__} as configured: expected {len(expected)} '
            f'names, found {len(state)}.\n'
            + '\n'.join(f'  {line}' for line in problems)
            + '\nGive the file of this network, or the sizes and heads of the file in the config.'
        )
    damaged = not_finite(state)
    if damaged:
        raise ValueError(
            f'{path}: {len(damaged)} weights have NaN or infinite values: {_listed(damaged)}; the training that wrote '
            'the file diverged, or the file is damaged'
        )
    module.load_state_dict(state)


def differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """What keeps one state dict from filling the other, in words; empty if nothing does.

    One line per part of the network and kind of difference, and examples of shapes.
    """
    wrong_shapes = sorted(name for name in expected.keys() & found.keys() if expected[name].shape != found[name].shape)
    return [
        *_explain('missing', expected.keys() - found.keys()),
        *_explain('unexpected', found.keys() - expected.keys()),
        *_explain('of another shape', wrong_shapes),
        *(
            f'{name}: expected {tuple(expected[name].shape)}, found {tuple(found[name].shape)}'
            for name in wrong_shapes[:SHOWN]
        ),
    ]


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinite values."""
    return [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]


def _explain(what: str, names: Collection[str]) -> list[str]:
    """One line per part of the network: how many of its names, and examples."""
    parts = Counter(name.partition('.')[0] for name in names)
    return [
        f'{count} {what} in {part}: {_listed(name for name in names if name.partition(".")[0] == part)}'
        for part, count in sorted(parts.items())
    ]


def _listed(names: Iterable[str]) -> str:
    """The first few names in alphabetic order."""
    names = sorted(names)
    return ', '.join(names[:SHOWN]) + (', ...' if len(names) > SHOWN else '')
