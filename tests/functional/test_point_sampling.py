"""Sampling points of several views, against one view at a time and hand-computed pixels."""

import torch
from torch.nn import functional as F

from pano3d.functional.point_sampling import sample_index, sample_logits, uncertain_points, uniform_points


def test_sampling_reads_each_view_alone():
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 5, 7, 9)
    points = uniform_points(2, 40, 5)
    found = sample_logits(maps, points)
    for n in range(2):
        for p in range(40):
            x, y, view = points[n, p]
            grid = torch.stack([2 * x - 1, 2 * y - 1]).view(1, 1, 1, 2)
            one = F.grid_sample(maps[n, None, :, int(view)], grid, padding_mode='border', align_corners=False)
            torch.testing.assert_close(found[n, :, p], one[0, :, 0, 0], rtol=1e-4, atol=1e-5)


def test_pixel_centres_give_the_pixel():
    maps = torch.arange(24.0).view(1, 1, 2, 3, 4)
    points = torch.tensor([[[(2 + 0.5) / 4, (1 + 0.5) / 3, 1.0], [(0 + 0.5) / 4, (2 + 0.5) / 3, 0.0]]])
    torch.testing.assert_close(sample_logits(maps, points)[0, 0], torch.tensor([12.0 + 4 + 2, 8.0]))
    assert sample_index(maps[:, 0].long(), points).tolist() == [[18, 8]]


def test_the_last_border_belongs_to_the_last_pixel():
    index = torch.arange(6).view(1, 1, 2, 3)
    assert sample_index(index, torch.tensor([[[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]])).tolist() == [[5, 0]]


def test_uncertain_points_lie_where_the_mask_is_undecided():
    masks = torch.full((1, 2, 8, 8), 10.0)
    masks[0, 1, :, 3:5] = 0.0  # only view 1 has a doubtful band
    points = uncertain_points(masks, 100, oversample=8.0, importance=1.0)[0]
    assert (points[:, 2] == 1).all()
    assert ((points[:, 0] > 2 / 8) & (points[:, 0] < 6 / 8)).all()


def test_the_share_without_importance_is_uniform_over_views():
    torch.manual_seed(0)
    masks = torch.full((1, 2, 4, 4), 10.0)
    masks[0, 1] = 0.0
    view = uncertain_points(masks, 4000, oversample=3.0, importance=0.75)[0, :, 2]
    assert abs((view == 0).float().mean() - 0.125) < 0.02  # half of the uniform quarter
