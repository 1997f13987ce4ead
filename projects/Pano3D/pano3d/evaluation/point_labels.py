"""What protocols on labelled points share: ground truth per point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pano3d.structures import LabelSpace, PanopticMap

from .protocol_metric import gt_panoptic


def gt_points(sample: Mapping[str, Any], label_space: LabelSpace, predicted_shape: Sequence[int]) -> PanopticMap:
    """Ground truth (N,) of the points that are predicted.

    Raises:
        ValueError: if it is missing, of views, in another label space, or of another number of points.
    """
    gt = gt_panoptic(sample, label_space)
    if len(gt.shape) != 1:
        raise ValueError(
            f'`gt_panoptic` must be labels of points (N,), got {tuple(gt.shape)}; views are scored as points on their '
            'mesh, by UniteMeshMetric'
        )
    if tuple(predicted_shape) != tuple(gt.shape):
        raise ValueError(
            f'the prediction must be on the {len(gt.category)} points of `gt_panoptic`, got {tuple(predicted_shape)}'
        )
    return gt
