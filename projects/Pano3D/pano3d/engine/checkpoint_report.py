"""What a weight file is, and which network it fits."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from pano3d.models.backbones import Backbone
from pano3d.models.backbones.released import RELEASED, ReleasedNetwork
from pano3d.models.loading import differences, not_finite, read_file, tensors_of
from pano3d.models.weight_files import INDEX_ENDING, left_out
from pano3d.registry import MODELS

from .config import load_config

SHOWN = 12
BACKBONE_PREFIX = 'backbone.'
PARTS = ('encoder', 'decoder')
"""State dicts that together are one network in files of MUSt3R."""


@dataclass(frozen=True)
class CheckpointReport:
    """What was found.

    Args:
        fits: whether the file fills a released network, or that of the config.
        lines: the findings, for reading.
    """

    fits: bool
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """A file beside one network.

    Args:
        names: what the network is called; several releases may have the same names and shapes.
        shared: how many of its names the file has.
        matching: how many of these have its shape.
        problems: what keeps the file from filling it.
        notes: what the file has and the network leaves out.
        refusal: why the backbone does not take the file at all.
    """

    names: str
    shared: int
    matching: int
    problems: list[str]
    notes: list[str] = field(default_factory=list)
    refusal: str | None = None

    @property
    def fits(self) -> bool:
        return not self.problems and self.refusal is None


def report_checkpoint(path: str | Path, config: str | Path | None = None) -> CheckpointReport:
    """Read a weight file, without running anything in it, and compare it with networks by name and shape.

    Args:
        path: a file as it was released, or one that training wrote.
        config: compare with its network alone; without one with all released networks.

    Raises:
        ValueError: if the file or the config cannot be read.
    """
    path = Path(path)
    content = read_file(path)
    trained = trained_weights(content)
    lines = describe_file(path, content)
    if trained is not None:
        lines.append(_describe_training(content))
    state = trained if trained is not None else tensors_of(content, path, parts=PARTS)
    damaged = not_finite(state)
    lines.append(describe_tensors(state))
    if config is not None:
        comparisons = [_compare_config(content, trained, path, load_config(config), str(config))]
    else:
        own = None if trained is None else _backbone_part(trained)
        comparisons = [_compare_released(group, content, own, path) for group in _groups()]
    fits = not damaged and any(comparison.fits for comparison in comparisons)
    lines += _verdict(comparisons)
    if not fits and config is None:
        lines.append('Networks of other sizes than the released ones are compared by their config: --config CONFIG')
    if damaged:
        lines.append(
            f'DAMAGED: {len(damaged)} tensors have NaN or infinite values, e.g. {damaged[0]}; it will be refused'
        )
    return CheckpointReport(fits=fits, lines=tuple(lines))


def trained_weights(content: object) -> dict[str, Tensor] | None:
    """The state dict of a whole model, if training of this package wrote the file."""
    state = content.get('state_dict') if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not any(str(name).startswith(BACKBONE_PREFIX) for name in state):
        return None
    return dict(state) if all(map(torch.is_tensor, state.values())) else None


def describe_file(path: Path, content: object) -> list[str]:
    """Format, size and the entries beside the weights."""
    if path.name.endswith(INDEX_ENDING):
        kind = 'index of safetensors in several parts'
    elif path.suffix == '.safetensors':
        kind = 'safetensors'
    else:
        kind = 'PyTorch' if zipfile.is_zipfile(path) else 'PyTorch, format of before version 1.6'
    lines = [f'{path}: {kind}, {path.stat().st_size / 2**20:,.1f} MiB']
    if isinstance(content, Mapping) and not all(map(torch.is_tensor, content.values())):
        lines += [f'  {name}: {_describe_entry(value)}' for name, value in list(content.items())[:SHOWN]]
        if len(content) > SHOWN:
            lines.append(f'  and {len(content) - SHOWN} more entries')
    return lines


def _describe_entry(value: object) -> str:
    if left_out({'': value}):
        return 'left out, holds objects of the script that wrote the file'
    if torch.is_tensor(value):
        return f'tensor {tuple(value.shape)}'
    if isinstance(value, Mapping):
        tensors = sum(map(torch.is_tensor, value.values()))
        return f'{tensors} tensors' if tensors else f'{len(value)} entries, no tensors'
    if isinstance(value, str):
        return f'text of {len(value)} characters'
    return str(value) if isinstance(value, bool | int | float | type(None)) else type(value).__name__


def _describe_training(content: object) -> str:
    meta = content.get('meta') if isinstance(content, Mapping) else None
    meta = meta if isinstance(meta, Mapping) else {}
    facts = [f'{name} {meta[name]}' for name in ('iter', 'epoch', 'experiment_name') if name in meta]
    return f'A checkpoint of Pano3D training{": " if facts else ""}{", ".join(facts)}'


def describe_tensors(state: Mapping[str, Tensor]) -> str:
    """Number and precision of the weights."""
    # a tensor with two names counts once
    unique = {(value.data_ptr(), value.shape): value for value in state.values()}
    kinds = Counter(str(value.dtype).removeprefix('torch.') for value in state.values())
    return f'{len(state)} tensors, {sum(value.numel() for value in unique.values()) / 1e6:,.2f} million values, ' + (
        ', '.join(f'{count} of {kind}' for kind, count in kinds.most_common())
    )


def _backbone_part(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(BACKBONE_PREFIX): value for name, value in state.items() if name.startswith(BACKBONE_PREFIX)
    }


def _groups() -> list[list[ReleasedNetwork]]:
    """Releases of one architecture, which names and shapes cannot tell apart, together."""
    groups: dict[str, list[ReleasedNetwork]] = {}
    for network in RELEASED:
        groups.setdefault(repr(sorted(network.backbone.items())), []).append(network)
    return list(groups.values())


def _build(config: Mapping[str, object]) -> nn.Module:
    """The network without memory for its weights."""
    with DefaultScope.overwrite_default_scope('pano3d'), torch.device('meta'):
        return MODELS.build(dict(config))


def _build_backbone(config: Mapping[str, object]) -> Backbone:
    backbone = _build(config)
    if not isinstance(backbone, Backbone):
        raise ValueError(f'{type(backbone).__name__} is no backbone, so it takes no released file')
    return backbone


def _compare_released(
    group: list[ReleasedNetwork], content: object, own: Mapping[str, Tensor] | None, path: Path
) -> Comparison:
    backbone = _build_backbone(group[0].backbone)
    names = f'{" or ".join(network.name for network in group)} ({type(backbone).__name__})'
    if own is None:
        comparison = _compare_official(backbone, content, path, names)
    else:
        comparison = _compare(backbone, own, names)
    terms = [f'{network.name}: {network.source}; licence {network.licence} ({network.terms_from})' for network in group]
    return replace(comparison, notes=[*comparison.notes, *terms])


def _compare_config(
    content: object, trained: Mapping[str, Tensor] | None, path: Path, config: Config, name: str
) -> Comparison:
    if 'model' not in config or 'backbone' not in config.model:
        raise ValueError(f'{name}: the config has no `model.backbone` to compare with')
    if trained is not None:
        return _compare(_build(config.model.to_dict()), trained, f'the model of {name}')
    backbone = _build_backbone(config.model.backbone.to_dict())
    return _compare_official(backbone, content, path, f'the backbone of {name} ({type(backbone).__name__})')


def _compare_official(backbone: Backbone, content: object, path: Path, names: str) -> Comparison:
    """As `Backbone.load_official` takes the file."""
    try:
        state = backbone.translate_official(content, path)
    except ValueError as error:
        return Comparison(names, 0, 0, [], refusal=str(error).removeprefix(f'{path}').lstrip(': '))
    notes = []
    for prefix, reason in backbone.unused_weights().items():
        unused = [name for name in state if name.startswith(prefix)]
        if unused:
            notes.append(f'{len(unused)} weights {prefix}* are left out ({reason})')
        state = {name: value for name, value in state.items() if not name.startswith(prefix)}
    return replace(_compare(backbone, state, names), notes=notes)


def _compare(network: nn.Module, state: Mapping[str, Tensor], names: str) -> Comparison:
    """Weights under the network's own names."""
    expected = network.state_dict()
    shared = expected.keys() & state.keys()
    matching = sum(expected[name].shape == state[name].shape for name in shared)
    return Comparison(names, len(shared), matching, differences(expected, state))


def _verdict(comparisons: list[Comparison]) -> list[str]:
    lines = []
    for comparison in comparisons:
        if comparison.fits:
            lines += [f'FITS {comparison.names}', *(f'  {note}' for note in comparison.notes)]
    if lines:
        return lines
    refusals = dict.fromkeys(comparison.refusal for comparison in comparisons if comparison.refusal)
    reasons = [f'  not taken: {refusal}' for refusal in refusals]
    nearest = max(comparisons, key=lambda comparison: (comparison.shared, comparison.matching))
    if not nearest.shared:
        return ['FITS none: no names in common', *reasons]
    return [
        f'FITS none; nearest is {nearest.names}: {nearest.shared} names in common, {nearest.matching} of its shape',
        *(f'  {problem}' for problem in nearest.problems),
        *reasons,
    ]
