"""How strongly each task pulls at the geometry decoder, read off the ordinary backward pass."""

from __future__ import annotations

from dataclasses import replace

import torch
from mmengine import dist
from torch import Tensor

from pano3d.models.backbones import Tokens


class GradientMeter:
    """Norms of the gradients that come back through watched tensors.

    A watched tensor is an alias with a hook: no value changes and no second backward pass is needed, so it works under
    mixed precision, activation checkpointing and sharding alike. Under a loss scale the norms carry it; only their
    ratios mean anything.

    Args:
        enabled: whether `watch` watches.
    """

    def __init__(self, *, enabled: bool = False) -> None:
        self.enabled = enabled
        self._squares: dict[str, Tensor] = {}

    def watch(self, task: str, tensor: Tensor) -> Tensor:
        """The same values; what comes back through them counts for the task."""
        if not (self.enabled and tensor.requires_grad and torch.is_grad_enabled()):
            return tensor
        alias = tensor.view_as(tensor)
        alias.register_hook(lambda gradient: self._add(task, gradient))
        return alias

    def watch_tokens(self, task: str, tokens: Tokens) -> Tokens:
        """The same for all that the decoder hands on: patches and layers, each tensor once."""
        aliases = {id(tensor): self.watch(task, tensor) for tensor in (tokens.patches, *tokens.layers)}
        layers = tuple(aliases[id(tensor)] for tensor in tokens.layers)
        return replace(tokens, patches=aliases[id(tokens.patches)], layers=layers)

    def _add(self, task: str, gradient: Tensor) -> None:
        square = gradient.detach().float().square().sum()
        self._squares[task] = self._squares[task] + square if task in self._squares else square

    def collect(self) -> dict[str, float]:
        """Norm per task of all gradients since the last call: the root of the mean square over the ranks.

        All ranks must call it together; they get the same values. A backward pass with a value that is not finite, or
        none at all, gives nothing.
        """
        squares, self._squares = self._squares, {}
        if not squares:
            return {}
        names = sorted(squares)
        total = torch.stack([squares[name] for name in names])
        dist.all_reduce(total, op='mean')
        if not total.isfinite().all():
            return {}
        return dict(zip(names, total.sqrt().tolist(), strict=True))
