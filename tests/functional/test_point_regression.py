"""Point maps as networks put them out and as they are trained."""

import math

import pytest
import torch

from pano3d.functional.point_regression import (
    align_medians,
    compress_points,
    expand_points,
    mean_distance,
    normalise_lengths,
    point_distance,
    weigh_by_confidence,
)


def test_expansion_keeps_directions_and_grows_lengths():
    raw = torch.tensor([[3.0, 0.0, 4.0], [0.0, -2.0, 0.0], [0.0, 0.0, 0.0]])
    grown = math.e**5 - 1
    expected = torch.tensor([[0.6 * grown, 0.0, 0.8 * grown], [0.0, -(math.e**2 - 1), 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(expand_points(raw), expected)


def test_compression_is_the_inverse_of_expansion():
    raw = torch.randn(4, 7, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(compress_points(expand_points(raw)), raw)


def test_the_origin_has_finite_gradients():
    for function in (expand_points, compress_points):
        raw = torch.zeros(2, 3, requires_grad=True)
        function(raw).sum().backward()
        assert raw.grad.isfinite().all()


def test_mean_distance_counts_valid_points_of_each_element():
    points = torch.tensor([[[3.0, 4.0, 0.0], [0.0, 0.0, 1.0], [math.nan] * 3], [[1.0, 0.0, 0.0]] * 3])
    valid = torch.tensor([[True, True, False], [False, False, False]])
    torch.testing.assert_close(mean_distance(points, valid), torch.tensor([3.0, 1e-8]))


def test_invalid_points_get_no_gradient():
    points = torch.tensor([[[3.0, 4.0, 0.0], [math.nan] * 3]], requires_grad=True)
    mean_distance(points, torch.tensor([[True, False]])).sum().backward()
    torch.testing.assert_close(points.grad, torch.tensor([[[0.6, 0.8, 0.0], [0.0, 0.0, 0.0]]]))


def test_confidence_term_by_hand():
    points = torch.zeros(1, 3, 3)
    target = torch.tensor([[[0.0, 3.0, 4.0], [2.0, 0.0, 0.0], [9.0, 9.0, 9.0]]])
    distance = point_distance(points, target, torch.tensor([[True, True, False]]))
    torch.testing.assert_close(distance, torch.tensor([5.0, 2.0]))
    value = weigh_by_confidence(distance, torch.tensor([1.0, math.e]), alpha=0.2)
    torch.testing.assert_close(value, torch.tensor((5 + 2 * math.e - 0.2) / 2))


def test_confidence_term_without_points_is_zero_and_differentiable():
    points, confidence = torch.randn(1, 2, 3, requires_grad=True), torch.rand(1, 2, requires_grad=True)
    nowhere = torch.zeros(1, 2, dtype=torch.bool)
    value = weigh_by_confidence(point_distance(points, points.detach(), nowhere), confidence[nowhere], alpha=0.2)
    value.backward()
    assert value.item() == 0
    assert not points.grad.any()
    assert not confidence.grad.any()


def scattered(seed):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(2, 2, 5, 6, 3, generator=generator) + torch.tensor([0.0, 0.0, 5.0])
    valid = torch.rand(2, 2, 5, 6, generator=generator) > 0.3
    return torch.where(valid[..., None], points, torch.nan), valid


@pytest.mark.parametrize('keep_target', [False, True])
def test_lengths_are_measured_in_their_own_mean(keep_target):
    target, valid = scattered(0)
    points, target_after = normalise_lengths(3 * target, target, valid, keep_target=keep_target)
    for scene in range(2):
        assert points[scene][valid[scene]].norm(dim=-1).mean().item() == pytest.approx(1, rel=1e-5)
    expected = target if keep_target else points
    torch.testing.assert_close(target_after, expected, equal_nan=True)


def test_alignment_of_medians_forgives_depth_shift_and_scale_alone():
    target, valid = scattered(1)
    factor = torch.tensor([0.2, 7.0]).view(2, 1, 1, 1, 1)
    changed = factor * target + torch.tensor([0.0, 0.0, 3.0])
    points, reference = align_medians(changed, target, valid)
    torch.testing.assert_close(points[valid], reference[valid], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(reference[0, ..., 2].nanmedian(), torch.tensor(0.0))
    torch.testing.assert_close(reference[..., :2], target[..., :2], equal_nan=True)
    points, reference = align_medians(changed + torch.tensor([1.0, 0.0, 0.0]), target, valid)
    assert (points - reference)[valid].abs().max() > 0.1
