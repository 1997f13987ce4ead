"""Fully sharded training that can be resumed."""

from __future__ import annotations

from mmengine._strategy import FSDPStrategy
from torch.distributed.fsdp import FullyShardedDataParallel

from pano3d.registry import STRATEGIES


@STRATEGIES.register_module()
class ShardedStrategy(FSDPStrategy):
    """mmengine's `FSDPStrategy`, whose optimiser state can be loaded again: torch >= 2.1 has another argument order."""

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Give every process its shard of a state that a checkpoint holds."""
        optimizer = self.optim_wrapper.optimizer
        shard = FullyShardedDataParallel.optim_state_dict_to_load(self.model, optimizer, state_dict)
        self.optim_wrapper.load_state_dict(shard)
