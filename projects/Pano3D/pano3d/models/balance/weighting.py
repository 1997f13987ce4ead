"""Strategies for the weights of the tasks."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from pano3d.registry import MODELS


class BalanceStrategy(BaseModule, ABC):
    """Turns the weights of the config, after their schedules, into those of a step."""

    def prepare(self, weights: Mapping[str, float]) -> None:
        """Get to know the tasks and their weights in the config; called once, by `JointLoss`."""

    @property
    def measuring(self) -> bool:
        """Whether the gradient norms of the next step are wanted."""
        return False

    @abstractmethod
    def forward(self, weights: Mapping[str, float]) -> tuple[dict[str, float | Tensor], Tensor | None]:
        """Weight per task for this step, and a term of the strategy's own that is added to the loss."""

    def start(self, step: int) -> None:
        """Step `step` comes, from 0; at 0 what was learned from earlier training is forgotten."""

    def observe(self, norms: Mapping[str, float], weights: Mapping[str, float]) -> None:
        """Take in what the step sent into the decoder.

        Args:
            norms: norm per task, see `GradientMeter.collect`.
            weights: weight per task that these gradients carry.
        """


@MODELS.register_module()
class FixedWeights(BalanceStrategy):
    """The weights as they stand in the config: the paper's way."""

    def forward(self, weights: Mapping[str, float]) -> tuple[dict[str, float | Tensor], Tensor | None]:
        return dict(weights), None


@MODELS.register_module()
class UncertaintyWeights(BalanceStrategy):
    """Learned weights (Kendall, Gal, Cipolla, CVPR 2018): sum over tasks of exp(-s) L + s / 2, with a learned s each.

    The weight exp(-s) starts at the one of the config. Where L stays above zero it tends to 1 / (2 L); a loss with
    log-confidence terms may go below, which would drive it up without end, so it is kept within a range.

    Args:
        largest_change: the weight stays within the config's divided and multiplied by this.

    Raises:
        ValueError: if the range is empty.
    """

    def __init__(self, *, largest_change: float = 100.0) -> None:
        super().__init__()
        if not 1.0 < largest_change < math.inf:
            raise ValueError(f'`largest_change` must be finite and > 1, got {largest_change}')
        self.largest_change = largest_change
        self.log_variance = nn.ParameterDict()

    def prepare(self, weights: Mapping[str, float]) -> None:
        for task, weight in weights.items():
            if weight <= 0:
                raise ValueError(f'a learned weight must start above 0, got {weight} for {task!r}')
            self.log_variance[task] = nn.Parameter(torch.tensor(-math.log(weight)))
        self.configured = dict(weights)

    def forward(self, weights: Mapping[str, float]) -> tuple[dict[str, float | Tensor], Tensor | None]:
        margin = math.log(self.largest_change)
        found: dict[str, float | Tensor] = {}
        terms = []
        for task, weight in weights.items():
            centre = -math.log(self.configured[task])
            # the gradient of a plain clamp would be zero for ever once outside
            variance = _bounded(self.log_variance[task], centre - margin, centre + margin)
            schedule = weight / self.configured[task]
            found[task] = schedule * torch.exp(-variance)
            terms.append(schedule * variance / 2)
        return found, torch.stack(terms).sum()


def _bounded(value: Tensor, low: float, high: float) -> Tensor:
    """`value` within [low, high]; the gradient goes through as if it were not bounded."""
    return value + (value.clamp(low, high) - value).detach()


@MODELS.register_module()
class GradientBalancedWeights(BalanceStrategy):
    """Weights that keep the gradients of the tasks, where these enter the decoder, in a fixed proportion.

    With n_t the norm that the unweighted loss of task t sends into the decoder, averaged over time, and r the
    reference task: weight_t = weight_r * (share_t / share_r) * (n_r / n_t). The reference keeps the weight of the
    config, so the size of the whole gradient, and with it clipping and learning rate, mean what they meant. The
    measured norms of segmentation are those after its factor gamma. Averages are buffers, so a resumed run goes on.

    Args:
        shares: proportion per task; all tasks that meet in the decoder. Others keep their weight.
        reference: the task whose weight stays.
        momentum: of the average over steps.
        largest_change: a weight stays within the config's divided and multiplied by this.

    Raises:
        ValueError: if a share is not positive, the reference has none, or a number is out of range.
    """

    norms: Tensor

    def __init__(
        self,
        *,
        shares: dict[str, float],
        reference: str = 'geometry',
        momentum: float = 0.95,
        largest_change: float = 100.0,
    ) -> None:
        super().__init__()
        if reference not in shares or min(shares.values()) <= 0:
            raise ValueError(f'`shares` must be positive and have the reference {reference!r}, got {shares}')
        if not (0.0 <= momentum < 1.0 and 1.0 < largest_change < math.inf):
            raise ValueError(
                f'`momentum` must be in [0, 1) and `largest_change` finite and > 1, got {momentum} and {largest_change}'
            )
        self.shares = dict(shares)
        self.reference = reference
        self.momentum = momentum
        self.largest_change = largest_change
        self.tasks: Sequence[str] = sorted(shares)
        self.register_buffer('norms', torch.zeros(len(self.tasks), dtype=torch.float64))  # 0: not measured yet

    def prepare(self, weights: Mapping[str, float]) -> None:
        missing = sorted(set(self.shares) - set(weights))
        if missing:
            raise ValueError(f'`shares` names the tasks {missing}, which have no weight; known are {sorted(weights)}')
        self.configured = dict(weights)

    @property
    def measuring(self) -> bool:
        return True

    def forward(self, weights: Mapping[str, float]) -> tuple[dict[str, float | Tensor], Tensor | None]:
        norms = dict(zip(self.tasks, self.norms.tolist(), strict=True))
        found: dict[str, float | Tensor] = dict(weights)
        for task in self.tasks:
            if task not in weights or task == self.reference or not (norms[task] and norms[self.reference]):
                continue
            share = self.shares[task] / self.shares[self.reference]
            balanced = self.configured[self.reference] * share * norms[self.reference] / norms[task]
            change = balanced / self.configured[task]
            found[task] = weights[task] * min(max(change, 1 / self.largest_change), self.largest_change)
        return found, None

    def start(self, step: int) -> None:
        if step == 0:
            self.norms.zero_()

    def observe(self, norms: Mapping[str, float], weights: Mapping[str, float]) -> None:
        if not all(norms.get(task) and weights.get(task) for task in self.tasks):
            return
        raw = self.norms.new_tensor([norms[task] / weights[task] for task in self.tasks])
        self.norms.copy_(raw if not self.norms.any() else self.momentum * self.norms + (1 - self.momentum) * raw)
