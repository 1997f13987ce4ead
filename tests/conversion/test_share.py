"""Ranks are named by the launchers, and start with different scenes."""

from __future__ import annotations

import pytest

from pano3d.conversion.share import Share, usable_cores


def test_ranks_start_with_different_scenes_and_none_is_left_out() -> None:
    scenes = [f'scene{index}' for index in range(8)]
    orders = [Share(rank, 3).order(scenes) for rank in range(3)]
    assert [order[:2] for order in orders] == [['scene0', 'scene3'], ['scene1', 'scene4'], ['scene2', 'scene5']]
    assert all(sorted(order) == scenes for order in orders)
    assert orders[1] == [f'scene{index}' for index in (1, 4, 7, 2, 5, 0, 3, 6)]
    assert Share().order(scenes) == scenes


@pytest.mark.parametrize(
    ('environment', 'expected'),
    [
        ({}, Share(0, 1)),
        ({'RANK': '3', 'WORLD_SIZE': '4'}, Share(3, 4)),
        ({'SLURM_PROCID': '1', 'SLURM_NTASKS': '2'}, Share(1, 2)),
        ({'RANK': '3', 'WORLD_SIZE': '4', 'SLURM_PROCID': '1', 'SLURM_NTASKS': '2'}, Share(3, 4)),
        ({'RANK': '3'}, Share(0, 1)),
    ],
)
def test_launchers(environment: dict[str, str], expected: Share) -> None:
    assert Share.find(environment=environment) == expected
    assert Share.find(1, 5, environment=environment) == Share(1, 5)


def test_bad_ranks() -> None:
    for numbers in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match='expected a rank from 0'):
            Share.find(*numbers)
    with pytest.raises(ValueError, match='give both'):
        Share.find(1)
    with pytest.raises(ValueError, match='RANK, WORLD_SIZE: invalid literal'):
        Share.find(environment={'RANK': 'one', 'WORLD_SIZE': '2'})


def test_ranks_of_a_machine_divide_its_cores() -> None:
    cores = usable_cores({})
    assert cores >= 1
    assert usable_cores({'LOCAL_WORLD_SIZE': '2'}) == max(1, cores // 2)
    assert usable_cores({'LOCAL_WORLD_SIZE': '100000'}) == 1
