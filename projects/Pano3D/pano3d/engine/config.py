"""Reading a configuration so that a misspelt key is an error and not a silent extra."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine import registry as mmengine_registry
from mmengine.config import Config
from mmengine.registry import DefaultScope, Registry

from pano3d import registry as pano3d_registry

_REGISTRIES = [value for value in vars(pano3d_registry).values() if isinstance(value, Registry)] + [
    value for value in vars(mmengine_registry).values() if isinstance(value, Registry)
]

# What mmengine takes out of a component's dict before it builds the component.
_READ_BY_BUILDER = {'type', '_scope_', 'paramwise_cfg', 'constructor'}


def load_config(path: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """Read a config, apply `--cfg-options`, and check every `dict(type=...)` against its class.

    Metrics that read classes and name no label space get that of their data set.

    Raises:
        ValueError: if the file does not exist, or a key is unknown; the message names the nearest known key.
    """
    if not Path(path).is_file():
        raise ValueError(f'{path}: no such config; the recipes are under configs/')
    config = Config.fromfile(path)
    if options:
        known = set(config.keys())
        config.merge_from_dict(dict(options))
        for key in options:
            top = key.split('.')[0]
            if top not in known:
                raise ValueError(f'--cfg-options {key}: {path} has no {top!r}{_nearest(top, known)}')
    check_config(config)
    for split in ('val', 'test'):
        dataset = (config.get(f'{split}_dataloader') or {}).get('dataset') or {}
        metrics = config.get(f'{split}_evaluator')
        if isinstance(metrics, list):
            label_space = dataset.get('model_label_space') or dataset.get('label_space')
            config[f'{split}_evaluator'] = [with_label_space(m, label_space) for m in metrics]
    return config


def with_label_space(metric: Mapping[str, Any], label_space: str | None) -> dict[str, Any]:
    """The config of a metric that reads classes, in the label space of its data set unless it names one itself."""
    accepted = parameters(resolve(metric['type'])) or set()
    if label_space is None or 'label_space' in metric or 'label_space' not in accepted:
        return dict(metric)
    return {**metric, 'label_space': label_space}


def check_config(config: Config) -> None:
    """Refuse arguments that no parameter of the named class takes.

    Raises:
        ValueError: naming the place in the config, the key, the class and the nearest parameter.
    """
    with DefaultScope.overwrite_default_scope(config.get('default_scope')):
        for place, component in _components(config.to_dict(), ''):
            target = resolve(component['type'])
            if target is None:
                raise ValueError(f'{place}: no component {component["type"]!r} is registered')
            accepted = parameters(target)
            if accepted is None:
                continue
            unknown = sorted(set(component) - _READ_BY_BUILDER - accepted)
            if unknown:
                raise ValueError(
                    f'{place}: {component["type"]} has no parameter {unknown[0]!r}{_nearest(unknown[0], accepted)}'
                )


def resolve(name: str | type) -> Any:
    """The class or function that `type=name` means, or None."""
    if not isinstance(name, str):
        return name
    for registry in _REGISTRIES:
        found = registry.get(name)
        if found is not None:
            return found
    return None


def parameters(target: Any) -> set[str] | None:
    """Names that `target` accepts by keyword; None if it takes any."""
    accepted: set[str] = set()
    classes = target.__mro__ if inspect.isclass(target) else [target]
    for cls in classes:
        function = cls.__dict__.get('__init__') if inspect.isclass(cls) else cls
        if function is None or cls is object:
            continue
        signature = inspect.signature(function).parameters.values()
        accepted |= {p.name for p in signature if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        # Arguments go on to the parent only through **kwargs.
        if not any(p.kind is p.VAR_KEYWORD for p in signature):
            return accepted
    return None


def _components(node: Any, place: str) -> Iterator[tuple[str, dict]]:
    if isinstance(node, dict):
        if isinstance(node.get('type'), str | type):
            yield place or 'config', node
        for key, value in node.items():
            yield from _components(value, f'{place}.{key}' if place else str(key))
    elif isinstance(node, list | tuple):
        for position, value in enumerate(node):
            yield from _components(value, f'{place}[{position}]')


def _nearest(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f'; did you mean {close[0]!r}?' if close else f'; known are {sorted(known)}'
