"""Pi3's training loss: points up to one scale per scene, normals, relative cameras, optionally confidence."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor

from pano3d.functional.geometry import invert_rigid, relative_to_first, transform_points
from pano3d.functional.point_regression import mean_distance
from pano3d.functional.scale_alignment import align_scale, spread_over_valid
from pano3d.functional.surface_error import corner_angle_error, depth_edges
from pano3d.models.backbones import GeometryPrediction
from pano3d.registry import MODELS
from pano3d.structures import Reconstruction

from .vggt_criterion import zero_of

NEEDED = ('local_points', 'camera_to_world', 'confidence_logits')
ALIGNED_POINTS = 4096
SMALLEST_DEPTH = 1e-6
NEAREST = 0.1
"""Pixels nearer than this share of their view's mean depth weigh no more than there."""
EDGE_TOLERANCE = 0.03
HUBER_WIDTH = 0.1
COSINE_MARGIN = 1e-6
SURE_ERROR = 0.02
"""Weighted error below which the confidence should be one."""


@MODELS.register_module()
class Pi3Criterion(BaseModule):
    """The official loss; the defaults are the official ones. Frame and scale of prediction and target do not matter.

    The confidence is trained in a stage of its own, in which the backbone freezes all else; that term follows its
    description and was not compared with the official code.

    Args:
        point_weight: weight of the point term.
        normal_weight: weight of the normal term; 0 leaves it out.
        camera_weight: weight of both camera terms.
        translation_weight: weight of the translation beside the rotation in radians.
        confidence_weight: weight of the confidence term, 0.05 in the official stage; 0 leaves it out.
    """

    def __init__(
        self,
        *,
        point_weight: float = 1.0,
        normal_weight: float = 1.0,
        camera_weight: float = 0.1,
        translation_weight: float = 100.0,
        confidence_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.point_weight = point_weight
        self.normal_weight = normal_weight
        self.camera_weight = camera_weight
        self.translation_weight = translation_weight
        self.confidence_weight = confidence_weight

    def forward(self, prediction: GeometryPrediction, target: Reconstruction) -> dict[str, Tensor]:
        """Weighted terms of a batch; they add up to the loss.

        Args:
            prediction: `local_points` (B, V, H, W, 3), `camera_to_world` (B, V, 4, 4) and `confidence_logits`.
            target: the scenes, any frame and scale, (B, V, ...).

        Returns:
            `point`, `normal`, `translation`, `rotation` and `confidence`, scalars. A term without what it compares, or
            of weight 0, is zero and still reaches its predictions with zero gradients.

        Raises:
            ValueError: if the prediction lacks an entry, or a confidence that counts is frozen.
        """
        return self.compare(prediction, target)

    def compare(
        self,
        prediction: GeometryPrediction,
        target: Reconstruction,
        *,
        fine_surfaces: Tensor | None = None,
        sky: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The terms of `forward`, knowing more of the target.

        Args:
            prediction: as in `forward`.
            target: as in `forward`.
            fine_surfaces: (B,), bool; the scenes whose surfaces are good enough for normals, all by default.
            sky: (B, V, H, W), bool; pixels that must not be confident.
        """
        self._check_prediction(prediction)
        measured = target.valid.flatten(1).any(1)
        names = 'point', 'normal', 'translation', 'rotation', 'confidence'
        nothing = sum(zero_of(prediction[name]) for name in NEEDED)
        if not measured.any():
            return dict.fromkeys(names, nothing)
        local_points, camera_to_world, logits = (prediction[name][measured] for name in NEEDED)
        truth = normalise_target(target[measured])
        local_points, camera_to_world = normalise_prediction(local_points, camera_to_world, truth.valid)
        weights = depth_weights(truth)
        scale = scene_scale(local_points, truth, weights)

        scaled = (scale[:, None, None, None, None] * local_points)[truth.valid]
        error = weights[truth.valid][:, None] * (scaled - truth.local_points[truth.valid]).abs()
        terms = {'point': self.point_weight * error.mean()}
        if self.normal_weight:
            fine = slice(None) if fine_surfaces is None else fine_surfaces[measured]
            terms['normal'] = self.normal_weight * normal_term(local_points[fine], truth[fine])
        translation, rotation = camera_terms(camera_to_world, truth.camera_to_world, scale)
        terms['translation'] = self.camera_weight * self.translation_weight * translation
        terms['rotation'] = self.camera_weight * rotation
        if self.confidence_weight:
            sure = error.detach().mean(-1) < SURE_ERROR
            confidence = F.binary_cross_entropy_with_logits(logits[truth.valid], sure.to(logits.dtype))
            if sky is not None and sky.any():
                above = prediction['confidence_logits'][sky]
                confidence = confidence + F.binary_cross_entropy_with_logits(above, torch.zeros_like(above))
            terms['confidence'] = self.confidence_weight * confidence
        return {name: terms.get(name, 0) + nothing for name in names}

    def _check_prediction(self, prediction: GeometryPrediction) -> None:
        missing = [name for name in NEEDED if name not in prediction]
        if missing:
            raise ValueError(f'Pi3Criterion needs {missing} in the prediction, got {sorted(prediction)}')
        learning = {name for name in NEEDED if prediction[name].requires_grad}
        if self.confidence_weight and learning and 'confidence_logits' not in learning:
            raise ValueError(
                '`confidence_weight` is set, but the backbone keeps the confidence from training; '
                "leave 'confidence' out of its `frozen`, or set the weight to 0"
            )


def normalise_target(target: Reconstruction) -> Reconstruction:
    """Scenes (B, V, ...) in the frame of their first camera, lengths over the mean distance of the valid points."""
    world_to_first = invert_rigid(target.camera_to_world[:, :1])
    points = transform_points(world_to_first, target.points.flatten(2, 3).flatten(1, 2)[:, None])
    points = points.view_as(target.points)
    scale = mean_distance(points, target.valid)
    return replace(
        target,
        points=points / scale[:, None, None, None, None],
        local_points=target.local_points / scale[:, None, None, None, None],
        camera_to_world=scale_translation(relative_to_first(target.camera_to_world), 1 / scale),
    )


def normalise_prediction(local_points: Tensor, camera_to_world: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Points (B, V, H, W, 3) and poses (B, V, 4, 4) over the mean norm of the valid points of their scene."""
    size = mean_distance(local_points, valid)
    return local_points / size[:, None, None, None, None], scale_translation(camera_to_world, 1 / size)


def scale_translation(poses: Tensor, factor: Tensor) -> Tensor:
    """Poses (B, V, 4, 4) with their translations times factors (B,)."""
    upper = torch.cat([poses[..., :3, :3], poses[..., :3, 3:] * factor[:, None, None, None]], dim=-1)
    return torch.cat([upper, poses[..., 3:, :]], dim=-2)


def depth_weights(truth: Reconstruction) -> Tensor:
    """One over the depth of every pixel, (B, V, H, W); meaningless where not valid."""
    depth = torch.where(truth.valid, truth.depth, 0)
    mean = depth.sum((-2, -1), keepdim=True) / truth.valid.sum((-2, -1), keepdim=True).clamp_min(1)
    return 1 / (torch.maximum(depth, NEAREST * mean) + SMALLEST_DEPTH)


def scene_scale(local_points: Tensor, truth: Reconstruction, weights: Tensor) -> Tensor:
    """The scales (B,) that bring local points (B, V, H, W, 3) closest to the truth, without gradients."""
    valid = truth.valid.flatten(1)
    index = spread_over_valid(valid, ALIGNED_POINTS)
    points, expected = (
        maps.flatten(1, 3).gather(1, index[..., None].expand(-1, -1, 3)) for maps in (local_points, truth.local_points)
    )
    return align_scale(points, expected, weights.flatten(1).gather(1, index))


def normal_term(local_points: Tensor, truth: Reconstruction) -> Tensor:
    """Angles between the surfaces of points (B, V, H, W, 3) and truth, where no edge is near; zero without a scene."""
    if not len(local_points):
        return zero_of(local_points)
    depth = truth.depth.nan_to_num(0).flatten(0, 1)
    valid = truth.valid & ~depth_edges(depth, tolerance=EDGE_TOLERANCE).view_as(truth.valid)
    maps = (tensor.flatten(0, 1) for tensor in (local_points, truth.local_points, valid))
    return corner_angle_error(*maps)


def camera_terms(poses: Tensor, expected: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Translation (Huber, mean of coordinates) and rotation error (radians) of all relative poses.

    Args:
        poses: predicted camera_to_world (B, V, 4, 4); their translations count times `scale`.
        expected: true camera_to_world (B, V, 4, 4).
        scale: (B,).
    """
    views = poses.shape[1]
    first, second = (~torch.eye(views, dtype=torch.bool, device=poses.device)).nonzero(as_tuple=True)
    if not len(first):
        return zero_of(poses), zero_of(poses)
    poses = scale_translation(poses, scale)
    found, wanted = (
        relative_to_first(torch.stack([cameras[:, first], cameras[:, second]], dim=2))[:, :, 1]
        for cameras in (poses, expected)
    )
    translation = F.huber_loss(found[..., :3, 3], wanted[..., :3, 3], delta=HUBER_WIDTH)
    cosine = ((found[..., :3, :3] * wanted[..., :3, :3]).sum((-2, -1)) - 1) / 2
    return translation, cosine.clamp(COSINE_MARGIN - 1, 1 - COSINE_MARGIN).acos().mean()
