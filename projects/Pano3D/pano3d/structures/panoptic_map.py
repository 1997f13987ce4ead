"""The one encoding of panoptic labels inside the package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

VOID = -1


@dataclass(frozen=True)
class PanopticMap:
    """Category and instance of every pixel (or point).

    Args:
        category: integer tensor (...), index into the label space, or -1 where nothing is known (void).
        instance: integer tensor of the same shape, > 0 for a countable object and 0 for stuff and void. One id means
            one object over all views of a scene.

    Raises:
        ValueError: if the shapes differ or a tensor is not of an integer type.
    """

    category: Tensor
    instance: Tensor

    def __post_init__(self) -> None:
        if self.category.shape != self.instance.shape:
            raise ValueError(
                '`category` and `instance` must have one shape, '
                f'got {tuple(self.category.shape)} and {tuple(self.instance.shape)}'
            )
        for name in ('category', 'instance'):
            dtype = getattr(self, name).dtype
            if dtype.is_floating_point or dtype.is_complex or dtype == torch.bool:
                raise ValueError(f'`{name}` must be of an integer type, got {dtype}')

    @property
    def shape(self) -> torch.Size:
        return self.category.shape

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> PanopticMap:
        return PanopticMap(
            self.category.to(device, non_blocking=non_blocking), self.instance.to(device, non_blocking=non_blocking)
        )

    def __getitem__(self, index: Any) -> PanopticMap:
        """The same views (or points) of both maps."""
        return PanopticMap(self.category[index], self.instance[index])
