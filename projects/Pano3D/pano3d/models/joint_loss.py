"""One loss for all tasks: L_total = sum over tasks of weight x loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from mmengine.model import BaseModule
from torch import Tensor

from pano3d.models.backbones import GeometryPrediction
from pano3d.models.queries import QueryPrediction
from pano3d.registry import MODELS
from pano3d.structures import Reconstruction, SceneSample

TermsByTask = Mapping[str, Mapping[str, Tensor]]
OWN_TASKS = ('geometry', 'segmentation')
ADDED_UP = 'loss'
"""mmengine adds up every logged value whose name contains this."""


@MODELS.register_module()
class JointLoss(BaseModule):
    """Geometry and segmentation, weighted 10 : 1 (method, section 3), and any further task.

    Args:
        geometry: config of the backbone's own training loss; None trains without the geometry task.
        segmentation: config of the set loss; None trains without the segmentation task.
        weights: one factor per task, also for tasks of extra heads.
        schedules: task -> points (step, factor) of a polygon that multiplies its weight, constant before the first and
            after the last; `[(0, 0.0), (3000, 1.0)]` warms a task in over 3000 steps. None: no weight changes by step.
        strategy: config of how the weights become those of a step, see `pano3d.models.balance`; None leaves them as
            they are, as in the paper.

    Attributes:
        step: number of the training step, from 0; `JointTrainingHook` sets it.

    Raises:
        ValueError: if a task has no weight, a weight is negative or not finite, or a schedule is not one.
    """

    def __init__(
        self,
        *,
        geometry: dict | None,
        segmentation: dict | None,
        weights: dict[str, float],
        schedules: dict[str, Sequence[Sequence[float]]] | None = None,
        strategy: dict | None = None,
    ) -> None:
        super().__init__()
        self.geometry = None if geometry is None else MODELS.build(geometry)
        self.segmentation = None if segmentation is None else MODELS.build(segmentation)
        absent = {task for task in OWN_TASKS if getattr(self, task) is None}
        missing = sorted(set(OWN_TASKS) - absent - set(weights))
        if missing:
            raise ValueError(f'`weights` has no entry for {missing}, got {sorted(weights)}')
        self.weights = {task: float(weight) for task, weight in weights.items() if task not in absent}
        _check_weights(self.weights)
        self.schedules = {task: _checked(task, points, self.weights) for task, points in (schedules or {}).items()}
        self.strategy = MODELS.build(strategy or dict(type='FixedWeights'))
        self.strategy.prepare(self.weights)
        self.step: int | None = None
        self.current: dict[str, float] = dict(self.weights)

    def scheduled_weights(self) -> dict[str, float]:
        """Weight per task at `step`, before the strategy.

        Raises:
            ValueError: if there are schedules and the step was never set.
        """
        if not self.schedules:
            return self.weights
        if self.step is None:
            raise ValueError(
                '`schedules` needs the number of the step; add `JointTrainingHook` to the hooks, or set `step`'
            )
        factors = {task: float(np.interp(self.step, *points)) for task, points in self.schedules.items()}
        return {task: weight * factors.get(task, 1.0) for task, weight in self.weights.items()}

    def forward(
        self,
        geometry: GeometryPrediction,
        segmentation: Sequence[QueryPrediction],
        samples: Sequence[SceneSample],
        extra: TermsByTask | None = None,
    ) -> dict[str, Tensor]:
        """All terms of all tasks for mmengine to add up and log.

        Args:
            geometry: what the backbone's heads put out.
            segmentation: one prediction per decoder stage.
            samples: the scenes, with `gt_reconstruction` and `gt_panoptic`.
            extra: terms of further heads, by task name; each task needs a weight.

        Returns:
            `loss_<task>_<term>`, weighted, and `loss_balance` of a strategy that has one, which add up to the total; to
            be logged `raw_<task>_<term>`, unweighted, `raw_<task>`, their sum, and `weight_<task>`.

        Raises:
            ValueError: if a task of `extra` has no weight, or one with a weight has no terms.
        """
        terms: dict[str, Mapping[str, Tensor]] = dict(extra or {})
        if self.geometry is not None:
            target = Reconstruction.stack([sample.gt_reconstruction for sample in samples])
            terms['geometry'] = self.geometry(geometry, target)
        if self.segmentation is not None:
            targets = [sample.gt_panoptic for sample in samples]
            labelled = [sample.get('labelled_classes') for sample in samples]
            # Only samples of several label spaces need a criterion that knows of them.
            partial = () if all(classes is None for classes in labelled) else (labelled,)
            terms['segmentation'] = self.segmentation(segmentation, targets, *partial)
        return self.combine(terms)

    def combine(self, terms: TermsByTask) -> dict[str, Tensor]:
        """The unweighted terms of all tasks, weighted and named as `forward` returns them."""
        unknown, silent = sorted(set(terms) - set(self.weights)), sorted(set(self.weights) - set(terms))
        if unknown:
            raise ValueError(f'JointLoss has no weight for the tasks {unknown}; add them to `weights`')
        if silent:
            raise ValueError(f'the tasks {silent} have a weight but no terms came; remove them from `weights`')
        weights, balance = self.strategy(self.scheduled_weights())
        self.current = {task: float(torch.as_tensor(weight).detach()) for task, weight in weights.items()}
        losses: dict[str, Tensor] = {}
        for task, task_terms in terms.items():
            for name, value in task_terms.items():
                term = _label(name)
                losses[f'{ADDED_UP}_{task}_{term}'] = weights[task] * value
                losses[f'raw_{task}_{term}'] = value.detach()
            total = sum(task_terms.values())
            losses[f'raw_{task}'] = total.detach()
            losses[f'weight_{task}'] = torch.as_tensor(weights[task], dtype=torch.float32, device=total.device).detach()
        if balance is not None:
            losses[f'{ADDED_UP}_balance'] = balance
        return losses

    def start(self, step: int) -> None:
        """Step `step` comes, from 0."""
        self.step = step
        self.strategy.start(step)

    def observe(self, norms: Mapping[str, float]) -> None:
        """Tell the strategy the gradient norm per task that the last step sent into the decoder."""
        self.strategy.observe(norms, self.current)


def _label(term: str) -> str:
    """The name of a term without what would make mmengine add up its raw value, too: 'loss_box' -> 'box'."""
    return term.replace(ADDED_UP, '').strip('_.') or 'total'


def _check_weights(weights: Mapping[str, float]) -> None:
    for task, weight in weights.items():
        if not 0.0 <= weight < math.inf:
            raise ValueError(f'`weights` must be finite and >= 0, got {weight} for {task!r}')
        if ADDED_UP in task:
            raise ValueError(f'the task {task!r} must not be called so: names with {ADDED_UP!r} are added up')


def _checked(task: str, points: Sequence[Sequence[float]], weights: Mapping[str, float]) -> tuple[tuple, tuple]:
    """Steps and factors of one schedule."""
    if task not in weights:
        raise ValueError(f'`schedules` has the task {task!r}, which is not trained; tasks are {sorted(weights)}')
    if not points or any(len(point) != 2 for point in points):
        raise ValueError(f'`schedules.{task}` must be points (step, factor), got {points}')
    steps, factors = zip(*points, strict=True)
    if list(steps) != sorted(set(steps)) or not all(0.0 <= factor < math.inf for factor in factors):
        raise ValueError(f'`schedules.{task}` must have rising steps and finite factors >= 0, got {points}')
    return steps, factors
