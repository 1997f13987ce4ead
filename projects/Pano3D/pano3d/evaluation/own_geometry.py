"""What protocols on the prediction's own points share: bringing them into the frame of the ground truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pano3d.functional.alignment import align_similarity
from pano3d.functional.geometry import transform_points
from pano3d.structures import Reconstruction

from .protocol_metric import required


def aligned_points(sample: Mapping[str, Any]) -> tuple[Tensor, Reconstruction, Reconstruction]:
    """Predicted points (V, H, W, 3), float64, in the frame of the ground truth, and both geometries; on the CPU.

    One Sim(3) per scene (Procrustes), from the pixels where both are valid.

    Raises:
        ValueError: if a reconstruction is missing, the sizes differ, a valid prediction is not finite, or the pairs do
            not determine a Sim(3).
    """
    predicted = required(sample, 'pred_reconstruction', Reconstruction).to('cpu')
    gt = required(sample, 'gt_reconstruction', Reconstruction).to('cpu')
    if predicted.valid.shape != gt.valid.shape:
        raise ValueError(
            '`pred_reconstruction` must have the size of `gt_reconstruction` (V, H, W), '
            f'{tuple(gt.valid.shape)}, got {tuple(predicted.valid.shape)}'
        )
    paired = predicted.valid & gt.valid
    transform = align_similarity(predicted.points[paired], gt.points[paired])
    points = transform_points(transform, predicted.points.double().flatten(0, 2)).view_as(gt.points)
    return points, predicted, gt
