"""Oracles: trying every candidate, and sums by hand."""

import pytest
import torch

from pano3d.functional.scale_alignment import align_scale, spread_over_valid, weighted_median


def cost(scale, source, target, weights):
    return (weights[..., None] * (scale * source - target).abs()).sum()


@pytest.mark.parametrize('seed', range(5))
def test_no_other_scale_costs_less(seed):
    """The cost is piecewise linear, so that its least value lies at one of the ratios."""
    generator = torch.Generator().manual_seed(seed)
    source, target = torch.randn(2, 40, 3, generator=generator, dtype=torch.float64).abs()
    weights = torch.rand(40, generator=generator, dtype=torch.float64)
    found = align_scale(source, target, weights)
    candidates = torch.stack([cost(ratio, source, target, weights) for ratio in (target / source).flatten()])
    assert cost(found, source, target, weights).item() == pytest.approx(candidates.min().item(), rel=1e-12)


def test_scenes_are_aligned_apart_and_outliers_do_not_count():
    source = torch.rand(2, 50, 3) + 0.5
    target = source * torch.tensor([2.0, 0.3])[:, None, None]
    target[:, :10] = 100
    torch.testing.assert_close(align_scale(source, target, torch.ones(2, 50)), torch.tensor([2.0, 0.3]))


def test_negative_scales_are_turned_and_nothing_to_align_gives_one():
    source = torch.rand(3, 20, 3) + 0.5
    weights = torch.tensor([1.0, 1.0, 0.0])[:, None].expand(3, 20)
    target = source * torch.tensor([-2.0, 3.0, 4.0])[:, None, None]
    torch.testing.assert_close(align_scale(source, target, weights), torch.tensor([2.0, 3.0, 1.0]))


def test_coordinates_of_zero_neither_divide_nor_decide():
    source = torch.tensor([[0.0, 1, 1], [0, 2, 2]])
    found = align_scale(source, 3 * source + torch.tensor([5.0, 0, 0]), torch.ones(2))
    assert found.item() == pytest.approx(3)


def test_scales_have_no_gradient():
    source = torch.rand(5, 3, requires_grad=True)
    assert not align_scale(source, source * 2, torch.ones(5)).requires_grad


def test_weighted_median_by_hand():
    values = torch.tensor([[3.0, 1, 2], [3, 1, 2], [3, 1, 2]])
    weights = torch.tensor([[1.0, 1, 1], [5, 1, 1], [1, 1, 0]])
    # sorted 1, 2, 3: half of the weight is reached at 2, at 3, and exactly at 1
    assert weighted_median(values, weights).tolist() == [2, 3, 1]


@pytest.mark.parametrize('count', [3, 7, 16])
def test_spreading_picks_valid_positions_evenly(count):
    valid = torch.rand(4, 30, generator=torch.Generator().manual_seed(0)) > 0.6
    found = spread_over_valid(valid, count)
    for row, chosen in zip(valid, found, strict=True):
        positions = row.nonzero().flatten().tolist()
        assert chosen.tolist() == [positions[int(len(positions) * k / count)] for k in range(count)]


def test_spreading_over_nothing_stays_in_range():
    assert spread_over_valid(torch.zeros(1, 9, dtype=torch.bool), 4).max() < 9


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r'got \(4, 3\), \(5, 3\) and \(4,\)'):
        align_scale(torch.zeros(4, 3), torch.zeros(5, 3), torch.zeros(4))
