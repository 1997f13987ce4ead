"""What each task asks of each part of the model, and whether they agree."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.model import MMFullyShardedDataParallel, is_model_wrapper
from mmengine.optim import AmpOptimWrapper
from mmengine.runner import Runner
from torch import Tensor

from pano3d.models import Pano3D
from pano3d.models.parts import parameters_by_part
from pano3d.registry import HOOKS

Gradients = list[Tensor | None]


@HOOKS.register_module()
class TaskGradientHook(Hook):
    """Measures the gradient of each task's weighted loss, per part of the model, every `interval` steps.

    It repeats the forward pass of the step that comes, with the same batch and the same random numbers, and takes one
    backward pass per task; the step itself is left as it is. Logged are, over all ranks together,
    `gradient_norm/<part>/<task>`, `gradient_cosine/<task>_<task>/<part>` where two tasks reach a part, and
    `gradient_overhead`, the time of all measurements so far over that of the rest of the training. With two tasks a
    measurement takes somewhat less than two steps. Parts are those of `pano3d.models.parts`.

    Memory: one more copy of the trained parameters per task, at the steps that are measured.

    Args:
        interval: steps from one measurement to the next.

    Raises:
        ValueError: if `interval` is below 1, or at the start of a training whose model is no `Pano3D`, or is sharded
            (FSDP), where no process sees whole gradients.
    """

    def __init__(self, *, interval: int = 50) -> None:
        if interval < 1:
            raise ValueError(f'`interval` must be at least 1, got {interval}')
        self.interval = interval
        self._spent = 0.0
        self._started = 0.0

    def before_train(self, runner: Runner) -> None:
        if isinstance(runner.model, MMFullyShardedDataParallel) or not isinstance(_unwrapped(runner), Pano3D):
            raise ValueError(
                f'TaskGradientHook measures whole gradients of a Pano3D, got {type(runner.model).__name__}; remove the '
                'hook from `custom_hooks`'
            )
        self._spent, self._started = 0.0, time.perf_counter()

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Mapping[str, Sequence] | None = None
    ) -> None:
        if runner.iter % self.interval:
            return
        start = _now()
        for name, value in self.measure(runner, data_batch).items():
            runner.message_hub.update_scalar(f'train/{name}', value)
        end = _now()
        self._spent += end - start
        if runner.iter:
            overhead = self._spent / max(end - self._started - self._spent, 1e-9)
            runner.message_hub.update_scalar('train/gradient_overhead', overhead)

    def measure(self, runner: Runner, data_batch: Mapping[str, Sequence] | None) -> dict[str, float]:
        """Norms and cosines of this batch with the present parameters, by the names they are logged under."""
        model = _unwrapped(runner)
        parts = {
            part: [parameter for parameter in named.values() if parameter.requires_grad]
            for part, named in parameters_by_part(model).items()
        }
        parts = {part: parameters for part, parameters in parts.items() if parameters}
        gradients = task_gradients(
            _task_losses(runner, model, data_batch), [p for group in parts.values() for p in group], _loss_scale(runner)
        )
        found: dict[str, float] = {}
        start = 0
        for part, group in parts.items():
            end = start + len(group)
            found |= compare_tasks({task: values[start:end] for task, values in gradients.items()}, part)
            start = end
        return found


def task_gradients(
    losses: Mapping[str, Tensor], parameters: Sequence[Tensor], scale: float = 1.0
) -> dict[str, Gradients]:
    """Gradient of each task's loss with respect to each parameter, None where it does not reach, mean over all ranks.

    Args:
        losses: scalars by task; their common graph is used up.
        parameters: leaves of it.
        scale: factor during the backward pass that keeps half precision from rounding to zero.
    """
    gradients: dict[str, Gradients] = {}
    for number, (task, loss) in enumerate(losses.items(), 1):
        found = torch.autograd.grad(
            loss * scale, parameters, retain_graph=number < len(losses), allow_unused=True, materialize_grads=False
        )
        values = [None if value is None else value.float() / scale for value in found]
        for value in values:
            if value is not None and dist.is_distributed():
                dist.all_reduce(value, 'mean')
        gradients[task] = values
    return gradients


def compare_tasks(gradients: Mapping[str, Gradients], part: str) -> dict[str, float]:
    """Norm per task and cosine per pair of tasks within one part, for the tasks that reach it.

    >>> one, two = torch.tensor([3.0, 4.0]), torch.tensor([4.0, 3.0])
    >>> {name: round(value, 6) for name, value in compare_tasks({'a': [one], 'b': [two]}, 'head').items()}
    {'gradient_norm/head/a': 5.0, 'gradient_norm/head/b': 5.0, 'gradient_cosine/a_b/head': 0.96}
    """
    norms = {}
    for task, values in gradients.items():
        present = [value for value in values if value is not None]
        if present:
            norms[task] = float(torch.stack([value.square().sum() for value in present]).sum().sqrt())
    found = {f'gradient_norm/{part}/{task}': norm for task, norm in norms.items()}
    for one, other in combinations(norms, 2):
        product = norms[one] * norms[other]
        if product > 0:
            pairs = zip(gradients[one], gradients[other], strict=True)
            inner = sum(float((a * b).sum()) for a, b in pairs if a is not None and b is not None)
            found[f'gradient_cosine/{one}_{other}/{part}'] = inner / product
    return found


def _task_losses(runner: Runner, model: Pano3D, data_batch: Mapping[str, Sequence] | None) -> dict[str, Tensor]:
    """Weighted loss per task of the coming step; no trace is left of having asked."""
    meter = model.gradient_meter
    enabled, meter.enabled = meter.enabled, False
    try:
        with torch.random.fork_rng(), runner.optim_wrapper.optim_context(model):
            losses = model(**model.data_preprocessor(data_batch, True), mode='loss')
    finally:
        meter.enabled = enabled
    tasks: dict[str, list[Tensor]] = {task: [] for task in model.joint_loss.weights}
    for name, value in losses.items():
        owners = [task for task in tasks if name.startswith(f'loss_{task}_')]
        if owners:
            tasks[max(owners, key=len)].append(value)
    return {task: torch.stack(terms).sum() for task, terms in tasks.items() if terms}


def _loss_scale(runner: Runner) -> float:
    wrapper = runner.optim_wrapper
    return float(wrapper.loss_scaler.get_scale()) if isinstance(wrapper, AmpOptimWrapper) else 1.0


def _unwrapped(runner: Runner) -> torch.nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
