"""The order in which samples are drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sized

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from pano3d.registry import DATA_SAMPLERS

# Keeps the permutations independent of the draws inside a sample, which are seeded by (seed, index).
PERMUTATION = 1

# Far more passes than any training makes.
DRAWS_PER_SEED = 1_000_000


@DATA_SAMPLERS.register_module()
class InfiniteDrawSampler(Sampler[int]):
    """An endless order of `draw * len(dataset) + scene`: each pass visits every scene once, with a new draw.

    The order is a pure function of the seed. Draws are counted from `seed * DRAWS_PER_SEED`: runs of different seeds
    see different samples, not the same ones in another order.

    Rank r of w takes positions r, r + w, r + 2w, ...; so all ranks together see what a single process sees. Each
    `iter()` starts anew at `start`, at no cost, whatever was prefetched before: a run that resumes after n iterations
    calls `skip(n * batch_size)` and then opens the loader.

    Args:
        dataset: one that takes an index beyond its length as another draw (`supports_draws`), such as
            `ScanNetMultiViewDataset`. mmengine's wrappers do not.
        shuffle: whether each pass is a fresh permutation.
        seed: of permutations and draws, the same on all ranks; None takes a random one and shares it.
        start: number of samples that this rank has had before.

    Raises:
        TypeError: if the dataset does not take such indices.
    """

    def __init__(self, *, dataset: Sized, shuffle: bool = True, seed: int | None = None, start: int = 0) -> None:
        if not getattr(dataset, 'supports_draws', False):
            raise TypeError(
                'InfiniteDrawSampler needs a dataset that takes an index beyond its length as another draw of the '
                f'same scene and says so by `supports_draws = True`, got {type(dataset).__name__}; '
                "use mmengine's InfiniteSampler there"
            )
        self.rank, self.world_size = get_dist_info()
        self.size = len(dataset)
        self.shuffle = shuffle
        self.seed = sync_random_seed() if seed is None else seed
        self.start = start

    def skip(self, count: int) -> None:
        """Let the next `iter()` start `count` samples of this rank later."""
        if count < 0:
            raise ValueError(f'`count` must not be negative, got {count}')
        self.start += count

    def __iter__(self) -> Iterator[int]:
        position = self.rank + self.start * self.world_size
        while True:
            draw, offset = divmod(position, self.size)
            order = self._order(draw)
            while offset < self.size:
                yield (self.seed * DRAWS_PER_SEED + draw) * self.size + int(order[offset])
                offset += self.world_size
            position = draw * self.size + offset

    def _order(self, draw: int) -> np.ndarray:
        if not self.shuffle:
            return np.arange(self.size)
        return np.random.default_rng([self.seed, draw, PERMUTATION]).permutation(self.size)

    def __len__(self) -> int:
        """Samples per pass and rank, rounded up; the iteration itself does not end."""
        return -(-self.size // self.world_size)
