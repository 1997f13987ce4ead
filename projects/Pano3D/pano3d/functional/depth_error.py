"""Depth errors of views after median alignment: absolute relative error and inlier ratio.

Source: Schröppel et al., "A Benchmark and a Baseline for Robust Multi-view Depth Estimation", 3DV 2022.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class DepthErrors:
    """Errors of V views; nan where a view has no ground truth.

    Args:
        abs_rel: (V,) float64, mean of |aligned - gt| / gt, a fraction.
        inlier_ratio: (V,) float64, share of pixels with max(gt / aligned, aligned / gt) under the threshold.
        scale: (V,) float64, factor that aligned the prediction.
        num_valid: (V,) int64, pixels with ground truth.
    """

    abs_rel: Tensor
    inlier_ratio: Tensor
    scale: Tensor
    num_valid: Tensor


def depth_errors(
    *,
    predicted: Tensor,
    gt: Tensor,
    valid: Tensor,
    alignment: Literal['view', 'scene'],
    median: Literal['middle', 'lower'] = 'middle',
    inlier_threshold: float = 1.03,
    clip: tuple[float, float] | None = (0.1, 100.0),
) -> DepthErrors:
    """Align predicted depth by the ratio of medians, clip it, compare. Computed in float64.

    A prediction whose median is not positive has no scale; it is given scale 0, so the lower clip bound, or 0, stands
    for all of it.

    Args:
        predicted: (V, H, W), any unit.
        gt: (V, H, W), metres.
        valid: (V, H, W) bool, where there is ground truth; elsewhere both depths are ignored.
        alignment: one scale per 'view', or one for the whole 'scene' from the valid pixels of all views.
        median: of an even number of values: the mean of the 'middle' two, or the 'lower' of them.
        inlier_threshold: ratio under which, strictly, a pixel is an inlier.
        clip: bounds of the aligned prediction, metres; None for none.

    Raises:
        ValueError: if shapes differ, `alignment` or `median` is unknown, or at a valid pixel the ground truth is not
            positive and finite or the prediction is not finite.
    """
    _check_depth(predicted, gt, valid)
    if median not in ('middle', 'lower'):
        raise ValueError(f"`median` must be 'middle' or 'lower', got {median!r}")
    lower = median == 'lower'
    views = [(p[v].double(), g[v].double()) for p, g, v in zip(predicted, gt, valid, strict=True)]
    if alignment == 'view':
        scales = [_median_scale(p, g, lower=lower) for p, g in views]
    elif alignment == 'scene':
        scales = [_median_scale(predicted[valid].double(), gt[valid].double(), lower=lower)] * len(views)
    else:
        raise ValueError(f"`alignment` must be 'view' or 'scene', got {alignment!r}")

    abs_rel, inlier_ratio = [], []
    for (prediction, truth), scale in zip(views, scales, strict=True):
        aligned = prediction * scale if clip is None else (prediction * scale).clamp(*clip)
        abs_rel.append(((aligned - truth).abs() / truth).mean())
        close = torch.maximum(truth / aligned, aligned / truth) < inlier_threshold
        inlier_ratio.append((close & (aligned > 0)).double().mean())
    return DepthErrors(torch.stack(abs_rel), torch.stack(inlier_ratio), torch.stack(scales), valid.flatten(1).sum(1))


def _median_scale(predicted: Tensor, gt: Tensor, *, lower: bool) -> Tensor:
    """Ratio of the medians of two (N,) tensors, (); nan if N = 0, 0 if the median prediction is not positive."""
    if not gt.numel():
        return gt.new_tensor(torch.nan)
    median_of = torch.median if lower else _median
    median = median_of(predicted)
    return torch.where(median > 0, median_of(gt) / median, 0.0)


def _median(values: Tensor) -> Tensor:
    """Median of (N,) with N > 0, (). `torch.median` takes the lower of the middle two instead of their mean."""
    n = values.numel()
    return (values.kthvalue((n + 1) // 2).values + values.kthvalue(n // 2 + 1).values) / 2


def _check_depth(predicted: Tensor, gt: Tensor, valid: Tensor) -> None:
    for name, tensor in (('predicted', predicted), ('gt', gt), ('valid', valid)):
        if tensor.ndim != 3 or tensor.shape != gt.shape:
            raise ValueError(
                f'`{name}` must have shape (V, H, W) as `gt`, {tuple(gt.shape)}, got {tuple(tensor.shape)}'
            )
    truth = gt[valid]
    wrong = int((~(torch.isfinite(truth) & (truth > 0))).sum())
    if wrong:
        raise ValueError(
            f'`gt` must be positive and finite where valid; it is not at {wrong} of {truth.numel()} pixels'
        )
    wrong = int((~torch.isfinite(predicted[valid])).sum())
    if wrong:
        raise ValueError(
            f'`predicted` must be finite where there is ground truth; it is not at {wrong} of {truth.numel()} pixels'
        )
