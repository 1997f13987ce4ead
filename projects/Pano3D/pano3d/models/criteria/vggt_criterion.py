"""VGGT's training loss: cameras, depth with confidence, optionally points with confidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from mmengine.model import BaseModule
from torch import Tensor

from pano3d.functional.geometry import invert_rigid, relative_to_first, transform_points
from pano3d.functional.pose_encoding import encode_cameras
from pano3d.functional.surface_error import gradient_error, normal_error
from pano3d.models.backbones import GeometryPrediction
from pano3d.registry import MODELS
from pano3d.structures import Reconstruction

FEWEST_VALID = 100
"""Fewer valid pixels than this give no dense term; a scene's first view needs more for a camera term."""
FEWEST_KEPT = 1000
"""The largest values are only dropped when more than this many remain."""
LARGEST_TERM = 100.0


@MODELS.register_module()
class VGGTCriterion(BaseModule):
    """The official multi-task loss; the defaults are the official ones.

    The target is expressed in the frame of the first camera and divided by its mean distance; the prediction is
    compared as it is, so the network learns that scale.

    Args:
        camera_weight: weight of the camera term.
        depth_weight: weight of the three depth terms; 0 leaves them out.
        point_weight: weight of the three point terms; 0 leaves them out.
        field_of_view_weight: weight of the fields of view beside translation and rotation.
        iteration_decay: refinement i of n counts decay ** (n - 1 - i).
        confidence_alpha: price of low confidence.
        kept_quantile: larger values of a dense term are dropped as outliers.
        depth_scales: strides 1, 2, 4, ... of the depth gradient term.
        point_scales: strides 1, 2, 4, ... of the normal term.
    """

    def __init__(
        self,
        *,
        camera_weight: float = 5.0,
        depth_weight: float = 1.0,
        point_weight: float = 0.0,
        field_of_view_weight: float = 0.5,
        iteration_decay: float = 0.6,
        confidence_alpha: float = 0.2,
        kept_quantile: float = 0.98,
        depth_scales: int = 4,
        point_scales: int = 3,
    ) -> None:
        super().__init__()
        self.camera_weight = camera_weight
        self.depth_weight = depth_weight
        self.point_weight = point_weight
        self.field_of_view_weight = field_of_view_weight
        self.iteration_decay = iteration_decay
        self.confidence_alpha = confidence_alpha
        self.kept_quantile = kept_quantile
        self.depth_scales = depth_scales
        self.point_scales = point_scales

    def forward(self, prediction: GeometryPrediction, target: Reconstruction) -> dict[str, Tensor]:
        """Weighted terms of a batch; they add up to the loss.

        Args:
            prediction: `pose_encodings` (iterations, B, V, 9), `depth` and `depth_confidence` (B, V, H, W), and, if
                points count, `points` (B, V, H, W, 3) and `point_confidence`.
            target: the scenes, any frame and scale, (B, V, ...).

        Returns:
            `camera`, `depth_confidence`, `depth_regression`, `depth_gradient` and likewise `point_*`, scalars. A term
            without enough valid pixels is zero and still reaches its predictions with zero gradients.

        Raises:
            ValueError: if the prediction lacks a needed entry.
        """
        return self.compare(prediction, normalise_scene(target))

    def compare(self, prediction: GeometryPrediction, target: Reconstruction) -> dict[str, Tensor]:
        """The terms of `forward` against a target that is normalised already."""
        self._check_prediction(prediction)
        terms = {'camera': self.camera_weight * self._camera_term(prediction['pose_encodings'], target)}
        if self.depth_weight:
            depth = prediction['depth'][..., None], target.depth[..., None]
            dense = self._dense_terms(*depth, prediction['depth_confidence'], target.valid, self._depth_gradient)
            terms |= {f'depth_{name}': self.depth_weight * value for name, value in dense.items()}
        if self.point_weight:
            points = prediction['points'], target.points
            dense = self._dense_terms(*points, prediction['point_confidence'], target.valid, self._point_gradient)
            terms |= {f'point_{name}': self.point_weight * value for name, value in dense.items()}
        return terms

    def _check_prediction(self, prediction: GeometryPrediction) -> None:
        needed = ['pose_encodings']
        needed += ['depth', 'depth_confidence'] if self.depth_weight else []
        needed += ['points', 'point_confidence'] if self.point_weight else []
        missing = [name for name in needed if name not in prediction]
        if missing:
            raise ValueError(
                f'VGGTCriterion needs {missing} in the prediction, got {sorted(prediction)}; '
                'add the head to `heads` of the backbone or set the weight of its terms to 0'
            )

    def _camera_term(self, encodings: Tensor, target: Reconstruction) -> Tensor:
        usable = target.valid[:, 0].sum((-2, -1)) > FEWEST_VALID
        if not usable.any():
            return zero_of(encodings)
        world_to_camera = invert_rigid(target.camera_to_world)
        expected = encode_cameras(world_to_camera, target.intrinsics, target.valid.shape[-2:])[usable]
        total = zero_of(encodings)
        for index, encoding in enumerate(encodings):
            translation, rotation, view = (encoding[usable] - expected).abs().split([3, 4, 2], dim=-1)
            term = bounded(translation.clamp(max=LARGEST_TERM).mean()) + bounded(rotation.mean())
            term = term + self.field_of_view_weight * bounded(view.mean())
            total = total + self.iteration_decay ** (len(encodings) - 1 - index) * term
        return total / len(encodings)

    def _dense_terms(
        self,
        prediction: Tensor,
        target: Tensor,
        confidence: Tensor,
        valid: Tensor,
        gradient_term: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> dict[str, Tensor]:
        """Terms of maps (B, V, H, W, C) with confidence (B, V, H, W)."""
        if valid.sum() < FEWEST_VALID:
            return {
                'confidence': zero_of(confidence),
                'regression': zero_of(prediction),
                'gradient': zero_of(prediction),
            }
        distance = bounded(torch.linalg.vector_norm(prediction[valid] - target[valid], dim=-1))
        surety = confidence[valid]
        weighted = distance * surety - self.confidence_alpha * surety.log()
        maps = (tensor.flatten(0, 1) for tensor in (prediction, target, valid))
        return {
            'confidence': self._mean_of_smallest(bounded(weighted)),
            'regression': self._mean_of_smallest(distance),
            'gradient': bounded(gradient_term(*maps)),
        }

    def _depth_gradient(self, prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        return gradient_error(prediction.squeeze(-1), target.squeeze(-1), valid, scales=self.depth_scales)

    def _point_gradient(self, prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        return normal_error(prediction, target, valid, scales=self.point_scales)

    def _mean_of_smallest(self, values: Tensor) -> Tensor:
        """Mean (of a list of values) below the quantile."""
        if values.numel() > FEWEST_KEPT:
            rank = round(self.kept_quantile * (values.numel() - 1))
            kept = values < values.detach().kthvalue(rank + 1).values
            if kept.sum() > FEWEST_KEPT:
                return values[kept].mean()
        return values.mean()


def normalise_scene(target: Reconstruction) -> Reconstruction:
    """Scenes (B, V, ...) in the frame of their first camera, lengths over the mean distance of the valid points."""
    camera_to_world = relative_to_first(target.camera_to_world)
    world_to_first = invert_rigid(target.camera_to_world[:, 0])
    points = transform_points(world_to_first, target.points.flatten(1, 3)).view_as(target.points)
    distances = torch.where(target.valid, torch.linalg.vector_norm(points, dim=-1), 0)
    scale = distances.flatten(1).sum(1) / (target.valid.flatten(1).sum(1) + 1e-3)
    scale = scale.clamp(1e-6, 1e6)[:, None, None]
    translation = camera_to_world[..., :3, 3:] / scale[..., None]
    upper = torch.cat([camera_to_world[..., :3, :3], translation], dim=-1)
    return replace(
        target,
        points=points / scale[..., None, None],
        local_points=target.local_points / scale[..., None, None],
        camera_to_world=torch.cat([upper, camera_to_world[..., 3:, :]], dim=-2),
    )


def bounded(values: Tensor) -> Tensor:
    """Values in [-100, 100]; what is not finite becomes 0."""
    return values.nan_to_num(0.0, 0.0, 0.0).clamp(-LARGEST_TERM, LARGEST_TERM)


def zero_of(prediction: Tensor) -> Tensor:
    """Zero that still reaches the prediction, with zero gradients, so that no parameter counts as unused."""
    return prediction.flatten()[:0].sum()
