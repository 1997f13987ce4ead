"""Scenes measured one by one: what metrics keep of each, and the scores of all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from mmengine.evaluator import BaseMetric
from mmengine.structures import BaseDataElement

from .protocol_metric import MissingFieldError
from .shared_sample import SharedSample

WHOLE_SCENE = 'scene'
RANKED_BY = ('pq_scene_mean/pixels/PQ', 'pq_view/pixels/PQ', 'miou/pixels/mIoU', 'depth_per_view/own_geometry/tau')


@dataclass(frozen=True)
class SceneResult:
    """One scene of an evaluation. Metrics are named by their prefix.

    Args:
        scene_id: its name.
        states: what each metric keeps of the scene.
        missing: why metrics cannot be applied: the prediction or the data set has not what they read.
        failed: why metrics refused the scene; `WHOLE_SCENE` if there is no prediction at all.
        note: what else should be said of the scene.
    """

    scene_id: str
    states: dict[str, list[Any]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    note: str = ''

    def as_state(self) -> dict[str, Any]:
        """The same for `write_state`."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True)
class EvaluationSummary:
    """The scores of all scenes.

    Args:
        metrics: by their keys.
        scene_ids: all scenes, the failed ones too.
        counted: how many scenes are in each metric, by prefix.
        scenes: score of every scene by the metric `ranked_by`, worst first.
        ranked_by: key of that metric; None if none of `RANKED_BY` was evaluated.
        missing: why metrics were not applied to some scene or to any, by prefix: the first reason.
        failed: reasons by scene, then by prefix.
        notes: what else should be said, by scene.
    """

    metrics: dict[str, float]
    scene_ids: list[str]
    counted: dict[str, int]
    scenes: dict[str, float]
    ranked_by: str | None
    missing: dict[str, str]
    failed: dict[str, dict[str, str]]
    notes: dict[str, str]

    @property
    def num_scenes(self) -> int:
        return len(self.scene_ids)

    @property
    def not_applicable(self) -> dict[str, str]:
        """Why metrics were applied to no scene at all, by prefix."""
        return {prefix: reason for prefix, reason in self.missing.items() if not self.counted[prefix]}

    def as_json(self) -> dict[str, Any]:
        """Everything, with None for what is undefined."""
        return {
            **asdict(self),
            'metrics': {key: defined(value) for key, value in self.metrics.items()},
            'scenes': {scene: defined(score) for scene, score in self.scenes.items()},
        }


def defined(value: float) -> float | None:
    """The value, or None for nan, which JSON does not know."""
    return value if math.isfinite(value) else None


def measure_scene(sample: BaseDataElement, metrics: Sequence[BaseMetric]) -> SceneResult:
    """Apply all metrics to one scene; what one of them refuses is recorded and does not keep it from the others."""
    result = SceneResult(scene_id=str(sample.get('scene_id')), note=sample.get('note', ''))
    record = SharedSample(sample.to_dict())
    for metric in metrics:
        before = len(metric.results)
        try:
            metric.process(None, [record])
            result.states[metric.prefix] = metric.results[before:]
        except Exception as error:  # whatever it is, the other metrics and scenes are still worth their time
            cause = error.__cause__ if isinstance(error.__cause__, MissingFieldError) else error
            if isinstance(cause, MissingFieldError):
                result.missing[metric.prefix] = str(cause)
            else:
                result.failed[metric.prefix] = describe(error)
        finally:
            del metric.results[before:]
    return result


def summarize_scenes(results: Sequence[SceneResult], metrics: Sequence[BaseMetric]) -> EvaluationSummary:
    """Scores over all scenes; a metric that no scene could serve has none.

    Raises:
        ValueError: if there is no scene, or none of them could be evaluated at all.
    """
    if not results:
        raise ValueError('no scene was evaluated; check that the split of the data set has scenes')
    if not any(result.states for result in results):
        first = next((r for r in results if r.failed or r.missing), results[0])
        reasons = [*first.failed.values(), *first.missing.values(), 'there are no metrics']
        raise ValueError(f'none of the {len(results)} scenes could be evaluated; {first.scene_id}: {reasons[0]}')
    scores: dict[str, float] = {}
    counted: dict[str, int] = {}
    missing: dict[str, str] = {}
    for metric in metrics:
        kept = [result.states[metric.prefix] for result in results if metric.prefix in result.states]
        counted[metric.prefix] = len(kept)
        reasons = [result.missing[metric.prefix] for result in results if metric.prefix in result.missing]
        if kept:
            values = metric.compute_metrics([state for states in kept for state in states])
            scores |= {f'{metric.prefix}/{name}': float(value) for name, value in values.items()}
        if reasons:
            missing[metric.prefix] = reasons[0]
    ranking = ranking_metric(metrics)
    return EvaluationSummary(
        metrics=scores,
        scene_ids=[result.scene_id for result in results],
        counted=counted,
        scenes=scene_scores(results, metrics),
        ranked_by=f'{ranking[0].prefix}/{ranking[1]}' if ranking else None,
        missing=missing,
        failed={result.scene_id: result.failed for result in results if result.failed},
        notes={result.scene_id: result.note for result in results if result.note},
    )


def ranking_metric(metrics: Sequence[BaseMetric]) -> tuple[BaseMetric, str] | None:
    """The first metric of `RANKED_BY` that there is, and the name of its score; larger is better."""
    for ranked_by in RANKED_BY:
        group, _, name = ranked_by.rpartition('/')
        for metric in metrics:
            if f'/{metric.prefix}'.endswith(f'/{group}'):
                return metric, name
    return None


def scene_scores(results: Sequence[SceneResult], metrics: Sequence[BaseMetric]) -> dict[str, float]:
    """Score of every scene by the ranking metric, worst first, undefined ones last; empty without such a metric."""
    found = ranking_metric(metrics)
    if found is None:
        return {}
    metric, name = found
    states = {result.scene_id: result.states.get(metric.prefix) for result in results}
    scores = {scene: float(metric.compute_metrics(kept)[name]) for scene, kept in states.items() if kept}
    return dict(sorted(scores.items(), key=lambda item: (math.isnan(item[1]), item[1])))


def describe(error: BaseException) -> str:
    """An error for people: its message, with its kind where that says more than 'wrong value'."""
    return str(error) if isinstance(error, ValueError | OSError) else f'{type(error).__name__}: {error}'


def result_from_state(state: Mapping[str, Any]) -> SceneResult:
    """The result that `SceneResult.as_state` describes.

    Raises:
        TypeError: if the description is of something else.
    """
    return SceneResult(**state)
