"""The factor gamma on what the segmentation loss sends into the geometry decoder."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor

from pano3d.functional.gradient import scale_gradient
from pano3d.registry import MODELS


@MODELS.register_module()
class FixedGradientFactor(BaseModule):
    """The same factor in every step (method, section 3).

    Args:
        value: gamma, finite and not negative.

    Raises:
        ValueError: on another value.
    """

    measuring = False

    def __init__(self, *, value: float) -> None:
        super().__init__()
        if not 0.0 <= value < math.inf:
            raise ValueError(f'the gradient factor must be finite and >= 0, got {value}')
        self.current = float(value)

    def forward(self, decoded: Tensor) -> Tensor:
        """The same values; the gradient is multiplied by gamma on the way back."""
        return scale_gradient(decoded, self.current)

    def start(self, step: int) -> None:
        """Step `step` comes; nothing changes here."""

    def observe(self, norms: Mapping[str, float]) -> None:
        """Norms per task, see `GradientMeter.collect`; they change nothing here."""


@MODELS.register_module()
class MeasuredGradientFactor(BaseModule):
    """Gamma from the gradients themselves: geometry's norm over segmentation's, both without factor, then fixed.

    This is what the authors did by hand. The first `steps` training steps are measured, with `initial` as the factor;
    then gamma is the ratio of the mean norms and stays. State and result are buffers: a resumed run goes on with them,
    a run from step 0 measures anew. Without both tasks, or if one sends nothing, `initial` stays.

    Args:
        steps: how many steps are measured; those that were skipped do not count.
        initial: the factor until then; the paper's.
        largest: gamma is at most this.

    Raises:
        ValueError: on no step, or factors that are not finite and positive.
    """

    gamma: Tensor
    measured: Tensor
    sums: Tensor

    def __init__(self, *, steps: int = 100, initial: float = 0.1, largest: float = 10.0) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f'`steps` must be at least 1, got {steps}')
        if not (0 < initial < math.inf and 0 < largest < math.inf):
            raise ValueError(f'`initial` and `largest` must be finite and > 0, got {initial} and {largest}')
        self.steps = steps
        self.initial = initial
        self.largest = largest
        self.register_buffer('gamma', torch.tensor(float(initial), dtype=torch.float64))
        self.register_buffer('measured', torch.tensor(0))
        self.register_buffer('sums', torch.zeros(2, dtype=torch.float64))  # geometry, segmentation

    @property
    def current(self) -> float:
        """The factor of the next step."""
        return float(self.gamma)

    @property
    def measuring(self) -> bool:
        """Whether the gradients of the next step are wanted."""
        return int(self.measured) < self.steps

    def forward(self, decoded: Tensor) -> Tensor:
        """The same values; the gradient is multiplied by gamma on the way back."""
        return scale_gradient(decoded, self.current)

    def start(self, step: int) -> None:
        """Step `step` comes; at 0 what an earlier training measured is forgotten."""
        if step == 0:
            self.gamma.fill_(self.initial)
            self.measured.zero_()
            self.sums.zero_()

    def observe(self, norms: Mapping[str, float]) -> None:
        """Norms per task, see `GradientMeter.collect`."""
        if not self.measuring or not {'geometry', 'segmentation'} <= set(norms):
            return
        self.sums += self.sums.new_tensor([norms['geometry'], norms['segmentation']])
        self.measured += 1
        if not self.measuring:
            self._decide()

    def _decide(self) -> None:
        geometry, segmentation = (self.sums / self.steps).tolist()
        if geometry > 0 and segmentation > 0:
            self.gamma.fill_(min(geometry / segmentation, self.largest))
        print_log(
            f'gradient norms at the border of the geometry decoder, mean of {self.steps} steps: geometry '
            f'{geometry:.3g}, segmentation {segmentation:.3g}; gamma = {self.current:.4g}',
            logger='current',
        )
