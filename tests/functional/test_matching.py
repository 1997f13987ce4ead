"""Pairwise costs against loops, the assignment against all permutations."""

from itertools import permutations

import pytest
import torch
from torch.nn import functional as F

from pano3d.functional.matching import assign, binary_cross_entropy_cost, dice_cost


@pytest.fixture
def masks():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(5, 30, generator=generator)
    target = (torch.rand(4, 30, generator=generator) > 0.6).float()
    weight = (torch.rand(30, generator=generator) > 0.3).float()
    return logits, target, weight


def test_pairwise_costs_equal_the_costs_of_each_pair_on_known_points(masks):
    logits, target, weight = masks
    known = weight.bool()
    for k in range(5):
        for m in range(4):
            x, t = logits[k, known], target[m, known]
            bce = F.binary_cross_entropy_with_logits(x, t)
            p = x.sigmoid()
            dice = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
            torch.testing.assert_close(binary_cross_entropy_cost(*masks)[k, m], bce)
            torch.testing.assert_close(dice_cost(*masks)[k, m], dice)


def test_assignment_is_the_best_of_all_permutations():
    cost = torch.rand(5, 4, generator=torch.Generator().manual_seed(1))
    rows, columns = assign(cost)
    best = min(sum(cost[r, c] for c, r in enumerate(p)) for p in permutations(range(5), 4))
    torch.testing.assert_close(cost[rows, columns].sum(), best)
    assert sorted(columns.tolist()) == [0, 1, 2, 3]


def test_no_segment_gives_an_empty_assignment():
    rows, columns = assign(torch.zeros(5, 0))
    assert len(rows) == len(columns) == 0


def test_a_diverged_network_is_said_to_have_diverged():
    with pytest.raises(FloatingPointError, match='diverged'):
        assign(torch.tensor([[float('nan'), 1.0]]))
