"""Parameter groups by the parts of the model."""

from __future__ import annotations

from collections.abc import Mapping

from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from torch import nn

from pano3d.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class PartOptimWrapperConstructor:
    """One parameter group per entry of `custom_keys`, and one for the rest; frozen parameters are left out.

    As mmengine's default constructor, but an entry that matches no parameter is an error instead of being ignored,
    and a part is one group instead of one group per tensor, so that the optimiser can update it in one go.

    Args:
        optim_wrapper_cfg: the optimiser wrapper, with `optimizer`.
        paramwise_cfg: `dict(custom_keys={name part: dict(lr_mult=..., decay_mult=...)})`; the longest name part that
            occurs in a parameter's name decides.

    Raises:
        ValueError: on another option than these, or an entry that matches no parameter.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        self.optim_wrapper_cfg = dict(optim_wrapper_cfg)
        options = dict(paramwise_cfg or {})
        self.custom_keys: Mapping[str, Mapping[str, float]] = options.pop('custom_keys', {})
        unknown = sorted(options) + sorted(
            f'{key}.{option}'
            for key, entry in self.custom_keys.items()
            for option in set(entry) - {'lr_mult', 'decay_mult'}
        )
        if unknown:
            raise ValueError(f'`paramwise_cfg` may hold custom_keys with lr_mult and decay_mult, got {unknown}')

    def __call__(self, model: nn.Module) -> OptimWrapper:
        optimizer = dict(self.optim_wrapper_cfg.pop('optimizer'))
        parts: dict[str, list[nn.Parameter]] = {key: [] for key in ['', *self.custom_keys]}
        names = [name.removeprefix('module.') for name, _ in model.named_parameters()]
        for key in self.custom_keys:
            if not any(key in name for name in names):
                raise ValueError(f'optim_wrapper.paramwise_cfg.custom_keys: {key!r} matches no parameter of the model')
        for name, (_, parameter) in zip(names, model.named_parameters(), strict=True):
            if parameter.requires_grad:
                parts[max((key for key in parts if key in name), key=len)].append(parameter)
        optimizer['params'] = [self._group(key, parts[key], optimizer) for key in parts if parts[key]]
        return OPTIM_WRAPPERS.build(self.optim_wrapper_cfg, default_args=dict(optimizer=OPTIMIZERS.build(optimizer)))

    def _group(self, key: str, parameters: list[nn.Parameter], optimizer: Mapping[str, float]) -> dict:
        group: dict = {'params': parameters}
        for option, factor in (('lr', 'lr_mult'), ('weight_decay', 'decay_mult')):
            if option in optimizer:
                group[option] = optimizer[option] * self.custom_keys.get(key, {}).get(factor, 1.0)
        count = sum(parameter.numel() for parameter in parameters)
        settings = ', '.join(f'{option} {value:g}' for option, value in group.items() if option != 'params')
        print_log(f'optimiser: {key or "all else"}: {count / 1e6:.2f} M parameters, {settings}', logger='current')
        return group
