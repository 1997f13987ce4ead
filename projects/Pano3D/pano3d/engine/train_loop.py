"""A training loop whose step i depends on nothing but the state before it, the seed and i."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.runner import IterBasedTrainLoop
from mmengine.runner.loops import _InfiniteDataloaderIterator

from pano3d.registry import LOOPS


@LOOPS.register_module()
class ReproducibleTrainLoop(IterBasedTrainLoop):
    """`IterBasedTrainLoop` that a resumed run continues exactly as the uninterrupted one would have.

    The random state of step i is set from (seed, rank, i), so it does not matter how many random numbers anything else
    (a validation, a restart) has drawn before. On resuming, the sampler skips what was trained on instead of every
    skipped sample being decoded; it must offer `skip(num_samples)`, as `InfiniteDrawSampler` does.

    Raises:
        TypeError: when a run is resumed with a sampler that cannot skip.
    """

    def run(self) -> torch.nn.Module:
        # The parent's loop, but for the skipping: it would decode and drop every sample before `_iter`.
        if self._iter > 0:
            self._skip(self._iter)
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            self._decide_current_val_interval()
            due = self._iter % self.val_interval == 0 or self._iter == self._max_iters
            if self.runner.val_loop is not None and self._iter >= self.val_begin and due:
                self.runner.val_loop.run()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_iter(self, data_batch: Sequence[dict]) -> None:
        seed = np.random.SeedSequence([self.runner.seed, get_rank(), self._iter]).generate_state(1, np.uint64)
        torch.manual_seed(int(seed[0]))
        super().run_iter(data_batch)

    def _skip(self, iterations: int) -> None:
        sampler = self.dataloader.sampler
        if not hasattr(sampler, 'skip'):
            raise TypeError(
                f'cannot resume with {type(sampler).__name__}: it has no `skip`; use InfiniteDrawSampler for training'
            )
        sampler.skip(iterations * self.dataloader.batch_size)
        self.dataloader_iterator = _InfiniteDataloaderIterator(self.dataloader)
