"""What MUSt3R remembers of a scene: tokens of past views, one set per decoder block."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MUSt3RMemory:
    """A value: adding or replacing images gives a new memory and leaves this one as it was.

    Args:
        layers: per decoder block (B, M, width): keys and values side by side, or the states they are made of.
        labels: (B, M), int64, the index of the image that each token comes from, in order of arrival.
        num_images: images so far.
    """

    layers: tuple[Tensor, ...]
    labels: Tensor
    num_images: int

    @property
    def batch_size(self) -> int:
        return self.labels.shape[0]

    @property
    def num_tokens(self) -> int:
        return self.labels.shape[1]

    @staticmethod
    def append(memory: MUSt3RMemory | None, layers: Iterable[Tensor], labels: Tensor, num_images: int) -> MUSt3RMemory:
        """The memory, or an empty one, and new images behind.

        Args:
            memory: what there is.
            layers: per block (B, T, width), tokens of the new images.
            labels: (T,), which new image, from 0, each token comes from.
            num_images: how many new images.
        """
        if memory is None:
            layers = tuple(layers)
            return MUSt3RMemory(layers, labels.expand(layers[0].shape[0], -1), num_images)
        labels = (labels + memory.num_images).expand(memory.batch_size, -1)
        joined = tuple(torch.cat(pair, dim=1) for pair in zip(memory.layers, layers, strict=True))
        return MUSt3RMemory(joined, torch.cat([memory.labels, labels], dim=1), memory.num_images + num_images)

    def replace(self, layers: Sequence[Tensor], labels: Tensor) -> MUSt3RMemory:
        """Other tokens of images that are here already.

        Args:
            layers: per block (B, T, width).
            labels: (T,), index of the image of each token, ascending.

        Raises:
            ValueError: if an image has another number of tokens here.
        """
        own = self.labels[0]
        places = torch.isin(own, labels).nonzero()[:, 0]
        if not torch.equal(own[places], labels):
            raise ValueError(
                f'images {sorted(set(labels.tolist()))} have {len(places)} tokens in the memory, got {len(labels)}; '
                'give the views in the order and sizes in which they entered'
            )
        replaced = (old.index_copy(1, places, new) for old, new in zip(self.layers, layers, strict=True))
        return MUSt3RMemory(tuple(replaced), self.labels, self.num_images)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> MUSt3RMemory:
        return MUSt3RMemory(
            tuple(layer.to(device, non_blocking=non_blocking) for layer in self.layers),
            self.labels.to(device, non_blocking=non_blocking),
            self.num_images,
        )
