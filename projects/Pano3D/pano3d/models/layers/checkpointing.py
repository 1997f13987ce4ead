"""Trading time for memory: recompute activations in the backward pass."""

from __future__ import annotations

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def run_block(block: nn.Module, *inputs: object, recompute: bool) -> Tensor:
    """`block(*inputs)`; with `recompute` its activations are not kept but computed again when gradients need them."""
    if recompute:
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)
