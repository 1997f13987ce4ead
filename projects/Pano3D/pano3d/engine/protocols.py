"""Which metrics a run evaluates: those of its config, or protocols by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope

from pano3d.evaluation.metric_key import protocol_of
from pano3d.registry import METRICS

from .config import with_label_space

ALL_PROTOCOLS = "_base_ = 'pano3d::_base_/protocols/all.py'"


def select_protocols(config: Config, names: Sequence[str]) -> list[dict[str, Any]]:
    """Metrics for the test data of `config`: 'all' that the package has, or those of these names.

    A name is the part of the metric keys that says the protocol, e.g. 'pq_scene_mean' or 'depth_mvd_pi3'; it means
    all geometries that carry it. The metrics of the config itself are known by name, too, and their settings prevail.

    Raises:
        ValueError: if there is no such protocol; the message names the nearest.
    """
    space = config.test_dataloader.dataset.get('label_space')
    shipped = _by_prefix(Config.fromstring(ALL_PROTOCOLS, '.py').to_dict()['test_evaluator'], space)
    own = _by_prefix(config.to_dict()['test_evaluator'], space)
    merged = {prefix: {**shipped.get(prefix, {}), **own.get(prefix, {})} for prefix in {**shipped, **own}}
    if list(names) == ['all']:
        return list(merged.values())
    known = {protocol_of(prefix) for prefix in merged}
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f'did you mean {close[0]!r}?' if close else f"known are 'all' and {sorted(known)}"
            raise ValueError(f'there is no protocol {name!r}; {hint}')
    return [metric for prefix, metric in merged.items() if protocol_of(prefix) in names]


def _by_prefix(metrics: Mapping[str, Any] | Iterable[Mapping[str, Any]], space: str | None) -> dict[str, dict]:
    complete = [with_label_space(metric, space) for metric in ([metrics] if isinstance(metrics, Mapping) else metrics)]
    with DefaultScope.overwrite_default_scope('pano3d'):
        return {METRICS.build(dict(metric)).prefix: metric for metric in complete}
