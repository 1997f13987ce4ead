"""Operations that are the identity forwards and act on the gradient backwards."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


def scale_gradient(tensor: Tensor, factor: float) -> Tensor:
    """The same values; the gradient is multiplied by `factor` on the way back (method, the factor gamma).

    Raises:
        ValueError: if `factor` is negative or not finite.
    """
    if not 0.0 <= factor < float('inf'):
        raise ValueError(f'the gradient factor must be finite and >= 0, got {factor}')
    return _ScaleGradient.apply(tensor, factor)
