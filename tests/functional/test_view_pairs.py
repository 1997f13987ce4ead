"""Pairs with the first view, and the scale between two maps of one camera."""

import pytest
import torch

from pano3d.functional.view_pairs import scale_between, star_pairs


def test_pairs_go_both_ways():
    assert star_pairs(2) == ([0, 1], [1, 0])
    assert star_pairs(4) == ([0, 0, 0, 1, 2, 3], [1, 2, 3, 0, 0, 0])


@pytest.mark.parametrize('views', [0, 1])
def test_one_view_makes_no_pair(views):
    with pytest.raises(ValueError, match=f'two views or more per scene, got {views}'):
        star_pairs(views)


def test_scale_is_the_weighted_median_of_the_ratios():
    source = torch.tensor([[1.0, 0, 0], [0, 2.0, 0], [0, 0, 4.0]])
    target = torch.tensor([[0, 3.0, 0], [0, 2.0, 0], [0, 0, 8.0]])  # ratios 3, 1, 2
    assert scale_between(source, target, torch.tensor([1.0, 1.0, 1.0])).item() == 2
    assert scale_between(source, target, torch.tensor([5.0, 1.0, 1.0])).item() == 3
    assert scale_between(source, target, torch.tensor([0.0, 1.0, 0.0])).item() == 1


def test_scale_bears_wrong_points_and_runs_per_element():
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(2, 3, 500, 3, generator=generator)
    expected = torch.rand(2, 3, generator=generator) + 0.5
    target = source * expected[..., None, None]
    target[..., :150, :] *= 100
    target[..., 150:160, :] = torch.nan
    source[..., 160:170, :] = 0
    torch.testing.assert_close(scale_between(source, target, torch.ones(2, 3, 500)), expected)


def test_nothing_to_compare_leaves_the_scale():
    points = torch.full((2, 5, 3), torch.nan)
    assert scale_between(points, points, torch.ones(2, 5)).tolist() == [1, 1]
    assert scale_between(torch.ones(5, 3), 2 * torch.ones(5, 3), torch.zeros(5)).item() == 1
