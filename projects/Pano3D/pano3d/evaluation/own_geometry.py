"""What protocols on the prediction's own points share: bringing them into the frame of the ground truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pano3d.functional.alignment import align_similarity, refine_by_icp
from pano3d.functional.geometry import transform_points
from pano3d.structures import Reconstruction

from .protocol_metric import check_views, required
from .shared_sample import derived


def aligned_points(sample: Mapping[str, Any]) -> tuple[Tensor, Reconstruction, Reconstruction]:
    """Predicted points (V, H, W, 3), float64, in the frame of the ground truth, and both geometries; on the CPU.

    One Sim(3) per scene (Procrustes), from the pixels where both are valid.

    Raises:
        ValueError: if a reconstruction is missing, the sizes differ, a valid prediction is not finite, or the pairs do
            not determine a Sim(3).
    """
    return derived(sample, 'aligned points', lambda: _align(sample))


def paired_points(sample: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Predicted points (N, 3) of the pixels where both geometries are valid, aligned, and all true points (M, 3)."""
    points, predicted, gt = aligned_points(sample)
    return points[predicted.valid & gt.valid], gt.points[gt.valid].double()


def closest_point_motion(sample: Mapping[str, Any], *, max_distance: float) -> Tensor:
    """The rigid motion (4, 4) that closest points add to the Sim(3), by pairs of `paired_points` up to a distance."""

    def refine() -> Tensor:
        return refine_by_icp(*paired_points(sample), max_distance=max_distance)

    return derived(sample, ('closest points', max_distance), refine)


def _align(sample: Mapping[str, Any]) -> tuple[Tensor, Reconstruction, Reconstruction]:
    predicted = required(sample, 'pred_reconstruction', Reconstruction).to('cpu')
    gt = required(sample, 'gt_reconstruction', Reconstruction).to('cpu')
    check_views(sample, 'pred_reconstruction', predicted.valid.shape)
    paired = predicted.valid & gt.valid
    transform = align_similarity(predicted.points[paired], gt.points[paired])
    points = transform_points(transform, predicted.points.double().flatten(0, 2)).view_as(gt.points)
    return points, predicted, gt
