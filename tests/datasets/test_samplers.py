"""Oracles: a single process, a permutation, and simple counting."""

from itertools import islice

import pytest
from mmengine.dataset import ConcatDataset

from pano3d.datasets import InfiniteDrawSampler, ScanNetMultiViewDataset, samplers
from pano3d.datasets.samplers import DRAWS_PER_SEED
from pano3d.registry import DATA_SAMPLERS


class Scenes(list):
    supports_draws = True


def take(sampler, count):
    return list(islice(sampler, count))


def as_rank(monkeypatch, rank, world_size):
    monkeypatch.setattr(samplers, 'get_dist_info', lambda: (rank, world_size))


def test_each_pass_is_a_fresh_permutation_with_the_next_draw():
    first = 20 * 3 * DRAWS_PER_SEED
    drawn = [index - first for index in take(InfiniteDrawSampler(dataset=Scenes(range(20)), seed=3), 60)]
    passes = [drawn[i : i + 20] for i in (0, 20, 40)]
    for draw, indices in enumerate(passes):
        assert sorted(indices) == list(range(20 * draw, 20 * draw + 20))
    orders = [[index % 20 for index in indices] for indices in passes]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_without_shuffle_it_counts():
    assert take(InfiniteDrawSampler(dataset=Scenes('abc'), shuffle=False, seed=0), 8) == list(range(8))


def test_the_seed_decides():
    orders = [take(InfiniteDrawSampler(dataset=Scenes(range(50)), seed=seed), 100) for seed in (1, 1, 2)]
    assert orders[0] == orders[1]
    assert not set(orders[0]) & set(orders[2]), 'another order of the same samples would be a poor repetition'


@pytest.mark.parametrize(('size', 'world_size'), [(7, 2), (8, 4), (3, 5), (1, 3)])
def test_ranks_interleave_to_the_order_of_one_process(monkeypatch, size, world_size):
    single = take(InfiniteDrawSampler(dataset=Scenes(range(size)), seed=9), 12 * world_size)
    for rank in range(world_size):
        as_rank(monkeypatch, rank, world_size)
        sampler = InfiniteDrawSampler(dataset=Scenes(range(size)), seed=9)
        assert take(sampler, 12) == single[rank::world_size]
        assert len(sampler) == -(-size // world_size)


@pytest.mark.parametrize(('rank', 'world_size'), [(0, 1), (1, 3)])
def test_start_and_skip_continue_where_the_others_were(monkeypatch, rank, world_size):
    as_rank(monkeypatch, rank, world_size)
    whole = take(InfiniteDrawSampler(dataset=Scenes(range(7)), seed=5), 40)
    sampler = InfiniteDrawSampler(dataset=Scenes(range(7)), seed=5, start=4)
    assert take(sampler, 20) == whole[4:24]
    sampler.skip(9)
    assert take(sampler, 20) == whole[13:33]
    assert take(sampler, 5) == whole[13:18], 'what was taken before, e.g. by prefetching, must not matter'
    with pytest.raises(ValueError, match='-1'):
        sampler.skip(-1)


def test_ranks_share_the_seed_that_nobody_gave(monkeypatch):
    monkeypatch.setattr(samplers, 'sync_random_seed', lambda: 42)
    assert InfiniteDrawSampler(dataset=Scenes('ab'), seed=None).seed == 42


def test_refuses_a_dataset_that_fails_at_the_second_pass(data_root):
    dataset = ScanNetMultiViewDataset(data_root=str(data_root), ann_file='train.json', label_space='scannet20')
    InfiniteDrawSampler(dataset=dataset, seed=0)
    with pytest.raises(TypeError, match='ConcatDataset'):
        InfiniteDrawSampler(dataset=ConcatDataset([dataset, dataset]), seed=0)


def test_registered():
    assert DATA_SAMPLERS.get('InfiniteDrawSampler') is InfiniteDrawSampler
