"""Optimiser wrappers that take no step on values that are not finite, and the hook that counts such steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel

from pano3d.registry import HOOKS, OPTIM_WRAPPERS


class TrainingDivergedError(RuntimeError):
    """Too many steps in a row had a loss or a gradient that is not finite."""


@OPTIM_WRAPPERS.register_module()
class GuardedOptimWrapper(OptimWrapper):
    """`OptimWrapper` that leaves parameters and optimiser as they are where the loss or a gradient is not finite.

    All ranks decide together: on the loss by asking each other, on the gradients because these are shared already. With
    gradient accumulation a bad batch spoils the update it belongs to. Under fully sharded training the gradient norm is
    that of all shards, which mmengine's own wrapper does not see to.

    Attributes:
        problem: what was wrong with the last batch, 'loss' or 'gradient'; None if nothing was.
        loss_was_finite: whether the loss of this rank was finite.
        updated: whether the last batch ended in a step of the optimiser.
    """

    problem: str | None = None
    loss_was_finite: bool = True
    updated: bool = False
    _spoilt: bool = False
    _model: nn.Module | None = None

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        self._model = model
        with super().optim_context(model):
            yield

    def update_params(self, loss: Tensor, step_kwargs: dict | None = None, zero_kwargs: dict | None = None) -> None:
        """Backward pass and, where it is due, a step; neither if the loss of any rank is not finite."""
        self.problem, self.updated = None, False
        finite = loss.detach().isfinite().all()
        self.loss_was_finite = bool(finite)
        if _on_all_ranks(finite):
            self.backward(self.scale_loss(loss))
        else:
            self._inner_count += 1  # as `backward` would
            self.problem, self._spoilt = 'loss', True
        if self.should_update():
            if not self._spoilt:
                self.step(**(step_kwargs or {}))
            self.zero_grad(**(zero_kwargs or {}))
            self._spoilt = False

    def step(self, **kwargs: Any) -> None:
        """Clip, then update the parameters if the gradients are finite."""
        if self._clip_finite():
            self.optimizer.step(**kwargs)
            self.updated = True
        else:
            self.problem = 'gradient'

    def _clip_finite(self) -> bool:
        """Clip as configured; whether all gradients are finite."""
        clipping = dict(self.clip_grad_kwargs or {})
        by_norm = self.clip_func is torch.nn.utils.clip_grad_norm_ if clipping else False
        norm = self._clip_norm(**(clipping if by_norm else {'max_norm': float('inf')}))
        if not norm.isfinite():
            return False
        if clipping and not by_norm:
            self._clip_grad()
        if by_norm:
            self.message_hub.update_scalar(f'train/{self.grad_name}', float(norm))
        return True

    def _clip_norm(self, **options: Any) -> Tensor:
        """Norm of all gradients, before it is clipped in place."""
        if isinstance(self._model, FullyShardedDataParallel):
            return self._model.clip_grad_norm_(**options)
        parameters = [p for group in self.optimizer.param_groups for p in group['params'] if p.grad is not None]
        return torch.nn.utils.clip_grad_norm_(parameters, **options)


@OPTIM_WRAPPERS.register_module()
class GuardedAmpOptimWrapper(GuardedOptimWrapper, AmpOptimWrapper):
    """The same with automatic mixed precision and a loss scale.

    float16 gradients overflow now and then while the scale is searched for. Such a step is skipped and the scale is
    halved, as always; it is a problem only once the scale is down to 1.
    """

    def step(self, **kwargs: Any) -> None:
        self.loss_scaler.unscale_(self.optimizer)
        if self._clip_finite():
            self.loss_scaler.step(self.optimizer, **kwargs)
            self.updated = True
        elif self.loss_scaler.get_scale() <= 1:
            self.problem = 'gradient'
        self.loss_scaler.update(self._scale_update_param)


def _on_all_ranks(flag: Tensor) -> bool:
    agreed = flag.float()
    dist.all_reduce(agreed, op='min')
    return bool(agreed)


@HOOKS.register_module()
class NonFiniteStepHook(Hook):
    """Counts the steps that a `GuardedOptimWrapper` skipped, names their samples, and stops when they do not end.

    The count is logged as `skipped_steps` and goes on when a run is resumed.

    Args:
        max_in_a_row: so many skipped steps without a good one between end the training.

    Raises:
        ValueError: if `max_in_a_row` is below 1.
        TrainingDivergedError: in training, on all ranks together.
    """

    def __init__(self, *, max_in_a_row: int = 10) -> None:
        if max_in_a_row < 1:
            raise ValueError(f'`max_in_a_row` must be at least 1, got {max_in_a_row}')
        self.max_in_a_row = max_in_a_row
        self.in_a_row = 0

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Mapping[str, Sequence] | None = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> None:
        wrapper = runner.optim_wrapper
        if not isinstance(wrapper, GuardedOptimWrapper):
            return
        if wrapper.updated:
            self.in_a_row = 0
        if wrapper.problem is None:
            return
        self.in_a_row += 1
        found = _describe(wrapper, data_batch or {}, outputs or {})
        details = '; '.join(part for part in dist.all_gather_object(found) if part)
        scalars = runner.message_hub.log_scalars
        skipped = scalars['train/skipped_steps'].current() if 'train/skipped_steps' in scalars else 0
        runner.message_hub.update_scalar('train/skipped_steps', skipped + 1)
        message = f'step {runner.iter + 1}: the {wrapper.problem} is not finite, the step was skipped ({details})'
        runner.logger.warning(message)
        if self.in_a_row >= self.max_in_a_row:
            raise TrainingDivergedError(
                f'{message}. These were {self.in_a_row} such steps in a row, so training stops; the parameters are '
                'those of the last good step and the last checkpoint is a good one. Look at the samples named, lower '
                'the learning rate, or resume from an earlier checkpoint'
            )


def _describe(wrapper: GuardedOptimWrapper, batch: Mapping[str, Sequence], outputs: Mapping[str, Any]) -> str:
    """The samples of this rank and the logged values that are not finite; nothing if another rank is to blame."""
    if wrapper.problem == 'loss' and wrapper.loss_was_finite:
        return ''
    names = [
        f'{sample.get("scene_id", "scene without id")}, frames {", ".join(map(str, sample.get("frame_ids", ())))}'
        for sample in batch.get('data_samples') or ()
    ]
    terms = sorted(name for name, value in outputs.items() if not bool(torch.as_tensor(value).isfinite().all()))
    return ' '.join([*names, f'[{", ".join(terms)}]' if terms else '']).strip()
