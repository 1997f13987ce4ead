"""What the model must hear of training that it cannot see in a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from pano3d.models import Pano3D
from pano3d.registry import HOOKS


@HOOKS.register_module()
class JointTrainingHook(Hook):
    """Tells a `Pano3D` which step it is in, and lets it learn from the gradients of the step.

    Weight schedules, the measured gradient factor and the balance by gradients need it. What they report is logged as
    `balance/<name>`.
    """

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Mapping[str, Sequence] | None = None
    ) -> None:
        model = _unwrapped(runner)
        if isinstance(model, Pano3D):
            model.start_step(runner.iter)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Mapping[str, Sequence] | None = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> None:
        model = _unwrapped(runner)
        if isinstance(model, Pano3D):
            for name, value in model.finish_step().items():
                runner.message_hub.update_scalar(f'train/balance/{name}', value)


def _unwrapped(runner: Runner) -> Any:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
