"""Which part of a list of scenes a process starts with, and how many processes it may have."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_VARIABLES = (('RANK', 'WORLD_SIZE'), ('SLURM_PROCID', 'SLURM_NTASKS'))


@dataclass(frozen=True)
class Share:
    """One of several equal ranks, each with all its worker processes.

    Args:
        rank: from 0.
        world_size: how many there are.

    Raises:
        ValueError: if there is no such rank.
    """

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f'expected a rank from 0 to world size - 1, got {self.rank} of {self.world_size}')

    @classmethod
    def find(
        cls, rank: int | None = None, world_size: int | None = None, *, environment: Mapping[str, str] = os.environ
    ) -> Share:
        """The given rank, else that of torchrun, else that of slurm, else the only one.

        Raises:
            ValueError: if one number is given without the other, or one is none.
        """
        if (rank is None) != (world_size is None):
            raise ValueError('`rank` and `world_size` belong together; give both or none')
        if rank is not None and world_size is not None:
            return cls(rank, world_size)
        for names in _VARIABLES:
            texts = [environment.get(name, '') for name in names]
            if all(texts):
                try:
                    return cls(int(texts[0]), int(texts[1]))
                except ValueError as error:
                    raise ValueError(f'environment variables {", ".join(names)}: {error}') from error
        return cls()

    def order(self, scene_ids: Sequence[str]) -> list[str]:
        """All scenes, first those that no other rank starts with; the others are for ranks that end late or die."""
        ahead = [
            (index - self.rank) % self.world_size for index in range(len(scene_ids))
        ]  # ranks between this one and the one that starts with the scene
        return [scene_ids[index] for index in sorted(range(len(scene_ids)), key=ahead.__getitem__)]


def usable_cores(environment: Mapping[str, str] = os.environ) -> int:
    """CPUs that this process may use, divided by the ranks that torchrun has started on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    local = environment.get('LOCAL_WORLD_SIZE', '1')
    return max(1, cores // int(local)) if local.isdecimal() and int(local) > 0 else cores
