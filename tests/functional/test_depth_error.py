"""Depth errors against numpy, and numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pano3d.functional.depth_error import depth_errors


def random_depth(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    gt = 1 + 4 * torch.rand(3, 5, 6, generator=generator)
    noise = 1 + 0.03 * torch.randn(3, 5, 6, generator=generator)
    return {'predicted': gt * noise / 2.5, 'gt': gt, 'valid': torch.rand(3, 5, 6, generator=generator) > 0.3}


@pytest.mark.parametrize('alignment', ['view', 'scene'])
@pytest.mark.parametrize('seed', range(4))
def test_equals_numpy(alignment: Any, seed: int) -> None:
    arrays = random_depth(seed)
    errors = depth_errors(**arrays, alignment=alignment)
    predicted, gt, valid = (arrays[key].numpy() for key in ('predicted', 'gt', 'valid'))
    for v in range(3):
        p, g = predicted[v][valid[v]].astype(np.float64), gt[v][valid[v]].astype(np.float64)
        scale = np.median(g) / np.median(p)
        if alignment == 'scene':
            scale = np.median(gt[valid].astype(np.float64)) / np.median(predicted[valid].astype(np.float64))
        aligned = np.clip(p * scale, 0.1, 100)
        assert float(errors.scale[v]) == pytest.approx(scale, abs=1e-12)
        assert float(errors.abs_rel[v]) == pytest.approx(np.mean(np.abs(aligned - g) / g), abs=1e-12)
        inlier = np.maximum(aligned / g, g / aligned) < 1.03
        assert float(errors.inlier_ratio[v]) == pytest.approx(inlier.mean(), abs=1e-12)
        assert int(errors.num_valid[v]) == len(g)


@pytest.mark.parametrize('alignment', ['view', 'scene'])
def test_views_and_pixels_may_be_permuted(alignment: Any) -> None:
    arrays = random_depth()
    generator = torch.Generator().manual_seed(0)
    views, columns = torch.tensor([2, 0, 1]), torch.randperm(6, generator=generator)
    turned = {name: array[views][..., columns] for name, array in arrays.items()}
    expected, found = (depth_errors(**maps, alignment=alignment) for maps in (arrays, turned))
    for name in ('abs_rel', 'inlier_ratio', 'scale', 'num_valid'):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name)[views], rtol=0, atol=1e-15)


@pytest.mark.parametrize('alignment', ['view', 'scene'])
def test_scene_without_ground_truth_is_undefined(alignment: Any) -> None:
    arrays = random_depth() | {'valid': torch.zeros(3, 5, 6, dtype=torch.bool)}
    errors = depth_errors(**arrays, alignment=alignment)
    assert torch.stack([errors.abs_rel, errors.inlier_ratio, errors.scale]).isnan().all()
    assert errors.num_valid.tolist() == [0, 0, 0]


def test_scaled_ground_truth_has_no_error() -> None:
    arrays = random_depth()
    scene = depth_errors(predicted=arrays['gt'] * 8, gt=arrays['gt'], valid=arrays['valid'], alignment='scene')
    factors = torch.tensor([0.5, 2.0, 4.0])[:, None, None]
    view = depth_errors(predicted=arrays['gt'] * factors, gt=arrays['gt'], valid=arrays['valid'], alignment='view')
    for errors in (scene, view):
        assert torch.equal(errors.abs_rel, torch.zeros(3).double())
        assert torch.equal(errors.inlier_ratio, torch.ones(3).double())
    one = depth_errors(predicted=arrays['gt'] * factors, gt=arrays['gt'], valid=arrays['valid'], alignment='scene')
    assert (one.abs_rel > 0.4).any(), 'views of different scale are seen by one scale per scene'


def test_by_hand() -> None:
    gt = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 2, 2)
    predicted = torch.tensor([1.0, 1.0, 2.0, 2.0]).reshape(1, 2, 2)
    errors = depth_errors(predicted=predicted, gt=gt, valid=gt > 0, alignment='view')
    scale = 2.5 / 1.5  # the mean of the middle two of each
    relative = [scale - 1, (2 - scale) / 2, (2 * scale - 3) / 3, (4 - 2 * scale) / 4]
    assert float(errors.scale) == pytest.approx(scale)
    assert float(errors.abs_rel) == pytest.approx(sum(relative) / 4)
    assert float(errors.inlier_ratio) == 0.0
    wide = depth_errors(predicted=predicted, gt=gt, valid=gt > 0, alignment='view', inlier_threshold=1.15)
    assert float(wide.inlier_ratio) == 0.25  # 3 m against 3.33 m


def test_aligned_depth_is_clipped() -> None:
    gt = torch.full((1, 1, 5), 2.0)
    predicted = torch.tensor([[[1.0, 1.0, 1.0, 0.0, 1e6]]])
    errors = depth_errors(predicted=predicted, gt=gt, valid=gt > 0, alignment='view')
    assert float(errors.abs_rel) == pytest.approx(((2 - 0.1) / 2 + (100 - 2) / 2) / 5)


def test_inlier_threshold_is_strict() -> None:
    gt = torch.tensor([[[1.0, 1.0, 1.0]]])
    predicted = torch.tensor([[[1.0, 1.0, 1.25]]])
    errors = depth_errors(predicted=predicted, gt=gt, valid=gt > 0, alignment='view', inlier_threshold=1.25)
    assert float(errors.inlier_ratio) == pytest.approx(2 / 3)


@pytest.mark.parametrize('alignment', ['view', 'scene'])
def test_prediction_without_positive_median_is_wrong_everywhere(alignment: Any) -> None:
    gt = torch.full((1, 2, 2), 2.0)
    for value in (0.0, -2.0):
        errors = depth_errors(predicted=torch.full_like(gt, value), gt=gt, valid=gt > 0, alignment=alignment)
        assert float(errors.abs_rel) == pytest.approx((2 - 0.1) / 2)
        assert float(errors.inlier_ratio) == 0.0


def test_view_without_ground_truth_is_undefined_and_changes_no_other() -> None:
    arrays = random_depth()
    expected = depth_errors(**arrays, alignment='scene')
    padded = {key: torch.cat([value, torch.zeros_like(value[:1])]) for key, value in arrays.items()}
    padded['predicted'][3] = torch.nan  # ignored where nothing is known
    errors = depth_errors(**padded, alignment='scene')
    torch.testing.assert_close(errors.abs_rel[:3], expected.abs_rel, rtol=0, atol=0)
    assert errors.abs_rel[3].isnan()
    assert errors.inlier_ratio[3].isnan()
    assert depth_errors(**padded, alignment='view').scale[3].isnan()


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        ({'predicted': torch.ones(3, 5, 5)}, r'`predicted` must have shape .*\(3, 5, 6\), got \(3, 5, 5\)'),
        ({'predicted': torch.full((3, 5, 6), torch.nan)}, '`predicted` must be finite'),
        ({'predicted': torch.full((3, 5, 6), torch.inf)}, '`predicted` must be finite'),
        ({'gt': torch.zeros(3, 5, 6)}, '`gt` must be positive and finite'),
        ({'alignment': 'sim3'}, "'view' or 'scene', got 'sim3'"),
    ],
)
def test_refuses(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        depth_errors(**({'alignment': 'view'} | random_depth() | changed))


def test_lower_median_and_no_clipping() -> None:
    gt = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 2, 2)
    predicted = torch.tensor([1.0, -1.0, 2.0, 2000.0]).reshape(1, 2, 2)
    errors = depth_errors(predicted=predicted, gt=gt, valid=gt > 0, alignment='view', median='lower', clip=None)
    assert float(errors.scale) == 2.0, 'the second of four'
    relative = [1, 2, 1 / 3, (4000 - 4) / 4]
    assert float(errors.abs_rel) == pytest.approx(sum(relative) / 4)
    assert float(errors.inlier_ratio) == 0.0, 'negative depth is no inlier'
    with pytest.raises(ValueError, match=r"`median` must be 'middle' or 'lower', got 'upper'"):
        depth_errors(predicted=gt, gt=gt, valid=gt > 0, alignment='view', median='upper')  # type: ignore[arg-type]
