"""Several data sets in one training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pano3d.registry import DATASETS

# Keeps the permutations independent of the draws inside a sample and of the order of the sampler.
MIXTURE = 2


@DATASETS.register_module()
class MixedScenesDataset:
    """Data sets in fixed proportions, all labelled in one label space (`model_label_space` of each).

    A sample is a pure function of (`seed`, index), so that `InfiniteDrawSampler` shuffles and resumes it like a single
    data set. Of each pass of `len(dataset)` samples, every data set has its share, rounded so that they add up. Its
    scenes come in random order, each as often as the others, with a new draw every time.

    Args:
        datasets: at least one, as configs or built; each must take an index beyond its length as another draw.
        weights: one positive number per data set, only their ratios matter; None gives each scene the same weight.
        seed: of the order of the scenes.

    Raises:
        TypeError: if a data set does not take such indices.
        ValueError: if the number of weights differs, one is not positive or so small that its data set has no sample
            in a pass, or the label spaces differ.
    """

    supports_draws = True

    def __init__(
        self,
        *,
        datasets: Sequence[dict[str, Any] | Any],
        weights: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        self.datasets = [DATASETS.build(dataset) if isinstance(dataset, dict) else dataset for dataset in datasets]
        for position, dataset in enumerate(self.datasets):
            if not getattr(dataset, 'supports_draws', False):
                raise TypeError(
                    f'datasets[{position}]: MixedScenesDataset needs data sets with `supports_draws = True`, got '
                    f'{type(dataset).__name__}'
                )
        names = [dataset.metainfo.get('label_space') for dataset in self.datasets]
        if len(set(names)) != 1:
            raise ValueError(
                f'the data sets must be labelled in one label space, found {names}; give each the same '
                '`model_label_space`'
            )
        classes = [dataset.metainfo.get('classes') for dataset in self.datasets]
        if any(names != classes[0] for names in classes):
            raise ValueError(f'the data sets must have the same classes; those called {names[0]!r} differ')
        self.seed = seed
        sizes = [len(dataset) for dataset in self.datasets]
        self.shares = shares_of(sum(sizes), sizes if weights is None else weights, len(sizes))

    @property
    def metainfo(self) -> dict[str, Any]:
        """That of the first data set; all have the same label space."""
        return self.datasets[0].metainfo

    def __len__(self) -> int:
        """Samples per pass: as many as all data sets have scenes."""
        return sum(self.shares)

    def __getitem__(self, index: int) -> Any:
        """Sample number `index` >= 0 (beyond the length: another draw), or -1 for the last of the first pass.

        Raises:
            IndexError: if `index` < -len.
        """
        if index < -len(self):
            raise IndexError(f'index {index} is out of range for {len(self)} samples')
        number, inner = self.locate(index if index >= 0 else index + len(self))
        return self.datasets[number][inner]

    def __iter__(self) -> Iterator[Any]:
        """The samples of the first pass; Python's own rule would count on for ever."""
        return (self[index] for index in range(len(self)))

    def locate(self, index: int) -> tuple[int, int]:
        """Which data set sample `index` comes from, and its index there."""
        lap, slot = divmod(index, len(self))
        number = int(np.searchsorted(np.cumsum(self.shares), slot, side='right'))
        position = lap * self.shares[number] + slot - sum(self.shares[:number])
        size = len(self.datasets[number])
        draw, offset = divmod(position, size)
        order = np.random.default_rng([self.seed, number, draw, MIXTURE]).permutation(size)
        return number, draw * size + int(order[offset])


def shares_of(total: int, weights: Sequence[float], count: int) -> list[int]:
    """`total` samples divided among `count` data sets by weight; the largest remainders are rounded up.

    Raises:
        ValueError: see `MixedScenesDataset`.

    >>> shares_of(10, [1, 1, 2], 3)
    [3, 2, 5]
    """
    if len(weights) != count or not all(np.isfinite(weight) and weight > 0 for weight in weights):
        raise ValueError(f'`weights` must be {count} positive numbers, one per data set, got {list(weights)}')
    parts = np.array(weights, np.float64) / max(weights)  # the sum of large numbers may be infinite
    exact = total * parts / parts.sum()
    shares = np.floor(exact).astype(int)
    shares[np.argsort(shares - exact, kind='stable')[: total - shares.sum()]] += 1
    if not shares.all():
        raise ValueError(
            f'`weights` {list(weights)} leave data set {int(np.argmin(shares))} without a sample among the {total} of '
            'a pass; raise its weight'
        )
    return shares.tolist()
