"""Metric states of one scene in a file: plain arrays and a description in JSON, nothing pickled."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pano3d.functional.average_precision import InstanceMatches
from pano3d.functional.confusion import SemanticCounts
from pano3d.functional.merged_instances import MergedCounts
from pano3d.functional.panoptic_quality import PanopticCounts
from pano3d.functional.pose_error import PoseCounts

COUNTS = {cls.__name__: cls for cls in (InstanceMatches, MergedCounts, PanopticCounts, PoseCounts, SemanticCounts)}
DESCRIPTION = 'description'


def write_state(path: str | Path, state: Any) -> None:
    """Write a tree of tensors, counts, dicts with str keys, lists, tuples, numbers, strings and None.

    The file appears under its name only when it is complete.

    Raises:
        TypeError: if the tree holds anything else.
    """
    arrays: dict[str, np.ndarray] = {}
    description = json.dumps(_describe(state, arrays))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **{DESCRIPTION: np.array(description)}, **arrays)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f'.{os.getpid()}.tmp')
    unfinished.write_bytes(buffer.getvalue())
    unfinished.replace(path)


def read_state(path: str | Path) -> Any:
    """What `write_state` has written.

    Raises:
        ValueError: if the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return _restore(json.loads(str(arrays[DESCRIPTION])), arrays)
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f'{path}: expected the state of an evaluated scene, found {error!r}; delete it') from error


def _describe(node: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(node, Tensor):
        name = f'array_{len(arrays)}'
        arrays[name] = node.detach().cpu().numpy()
        return {'tensor': name}
    if is_dataclass(node) and type(node).__name__ in COUNTS:
        values = {field.name: _describe(getattr(node, field.name), arrays) for field in fields(node)}
        return {'counts': type(node).__name__, 'fields': values}
    if isinstance(node, Mapping) and all(isinstance(key, str) for key in node):
        return {'dict': {key: _describe(value, arrays) for key, value in node.items()}}
    if isinstance(node, list | tuple):
        return {type(node).__name__: [_describe(value, arrays) for value in node]}
    if node is None or isinstance(node, bool | int | float | str):
        return {'value': node}
    raise TypeError(
        f'a metric state of type {type(node).__name__} cannot be stored: keep tensors, dicts, lists, numbers or '
        f'{sorted(COUNTS)}'
    )


def _restore(node: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    if 'tensor' in node:
        return torch.from_numpy(np.array(arrays[node['tensor']]))
    if 'counts' in node:
        return COUNTS[node['counts']](**{name: _restore(value, arrays) for name, value in node['fields'].items()})
    if 'dict' in node:
        return {key: _restore(value, arrays) for key, value in node['dict'].items()}
    if 'list' in node:
        return [_restore(value, arrays) for value in node['list']]
    if 'tuple' in node:
        return tuple(_restore(value, arrays) for value in node['tuple'])
    return node['value']
