"""Trading time for memory: recompute activations in the backward pass."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.utils.checkpoint import checkpoint


def run_block(block: Callable[..., Tensor], *inputs: object, recompute: bool) -> Tensor:
    """`block(*inputs)`; with `recompute` its activations are not kept but computed again when gradients need them."""
    if recompute:
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)
