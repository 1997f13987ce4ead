"""Pairwise costs against loops, the assignment against all permutations."""

from itertools import permutations

import pytest
import torch
from torch.nn import functional as F

from pano3d.functional.matching import assign, binary_cross_entropy_cost, dice_cost


def test_pairwise_costs_equal_the_costs_of_each_pair():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 5, 30, generator=generator)
    target = (torch.rand(2, 4, 30, generator=generator) > 0.6).float()
    for b in range(2):
        for k in range(5):
            for m in range(4):
                x, t = logits[b, k], target[b, m]
                bce = F.binary_cross_entropy_with_logits(x, t)
                p = x.sigmoid()
                dice = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
                torch.testing.assert_close(binary_cross_entropy_cost(logits, target)[b, k, m], bce)
                torch.testing.assert_close(dice_cost(logits, target)[b, k, m], dice)


def test_assignments_are_the_best_of_all_permutations():
    cost = torch.rand(3, 5, 4, generator=torch.Generator().manual_seed(1))
    cost[1, :, 2:] = -100.0  # columns that problem 1 does not have
    counts = [4, 2, 0]
    problem, row, column = assign(cost, counts)
    assert problem.tolist() == [0] * 4 + [1] * 2
    for n, count in enumerate(counts[:2]):
        rows, columns = row[problem == n], column[problem == n]
        best = min(sum(cost[n, r, c] for c, r in enumerate(p)) for p in permutations(range(5), count))
        torch.testing.assert_close(cost[n, rows, columns].sum(), best)
        assert sorted(columns.tolist()) == list(range(count))


def test_more_columns_than_rows_leave_columns_over():
    problem, row, column = assign(torch.tensor([[[3.0, 1.0, 2.0], [1.0, 0.0, 5.0]]]), [3])
    assert (problem.tolist(), row.tolist(), column.tolist()) == ([0, 0], [0, 1], [1, 0])


def test_a_diverged_network_is_said_to_have_diverged():
    with pytest.raises(FloatingPointError, match='diverged'):
        assign(torch.tensor([[[float('nan'), 1.0]]]), [2])
