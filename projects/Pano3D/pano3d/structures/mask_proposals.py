"""A set of scored masks that may overlap."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MaskProposals:
    """K masks over the same pixels or points. Their order is kept: some protocols depend on it.

    Args:
        masks: (K, ...) bool.
        category: (K,) integer, index into the label space, or -1 for none.
        score: (K,) floating, larger is surer.

    Raises:
        ValueError: if the shapes do not fit each other, or a tensor is of another type.
    """

    masks: Tensor
    category: Tensor
    score: Tensor

    def __post_init__(self) -> None:
        count = tuple(self.masks.shape[:1])
        for name, tensor in (('category', self.category), ('score', self.score)):
            if tuple(tensor.shape) != count:
                raise ValueError(f'`{name}` must have shape {count} beside `masks`, got {tuple(tensor.shape)}')
        if self.masks.dtype != torch.bool or not self.score.is_floating_point() or self.category.is_floating_point():
            raise ValueError(
                '`masks` must be bool, `category` integer and `score` floating, '
                f'got {self.masks.dtype}, {self.category.dtype} and {self.score.dtype}'
            )

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> MaskProposals:
        return MaskProposals(
            *(tensor.to(device, non_blocking=non_blocking) for tensor in (self.masks, self.category, self.score))
        )
