"""MUSt3R's training loss: points in the scene and in each camera, in log space, with one confidence."""

from __future__ import annotations

import torch
from mmengine.model import BaseModule
from torch import Tensor

from pano3d.functional.geometry import invert_rigid, transform_points
from pano3d.functional.point_regression import compress_points, mean_distance, weigh_by_confidence
from pano3d.models.backbones import GeometryPrediction
from pano3d.registry import MODELS
from pano3d.structures import Reconstruction

MAPS = ('points', 'local_points', 'confidence')
UPDATE = 'update_'
"""Before the names of what the pass into the memory put out."""


@MODELS.register_module()
class MUSt3RCriterion(BaseModule):
    """The official confidence loss; the defaults are those of the official recipe.

    Points of the scene, in the frame of the first camera, and points of each camera are divided by the mean distance of
    the former to the first camera: the target by its own, the prediction by its own too or, if `metric_scale`, by that
    of the target.

    Args:
        loss_in_log: compare points whose lengths n have become log(1 + n).
        metric_scale: targets are in metres and the network is to learn that; otherwise any scale will do.
        sky_value: distance that pixels of the sky, which have no points, count with; see `compare`.
        confidence_alpha: price of low confidence.
    """

    def __init__(
        self,
        *,
        loss_in_log: bool = True,
        metric_scale: bool = True,
        sky_value: float = 2.0,
        confidence_alpha: float = 0.2,
    ) -> None:
        super().__init__()
        self.loss_in_log = loss_in_log
        self.metric_scale = metric_scale
        self.sky_value = sky_value
        self.confidence_alpha = confidence_alpha

    def forward(self, prediction: GeometryPrediction, target: Reconstruction) -> dict[str, Tensor]:
        """Weighted terms of a batch; they add up to the loss.

        Args:
            prediction: `points` and `local_points` (B, V, H, W, 3) and `confidence` (B, V, H, W); the same with
                `update_` before the name and `update_views`, (k,) or per scene (B, k), if the pass into the memory
                counts too.
            target: the scenes, any frame, (B, V, ...).

        Returns:
            `points` and `local_points`, and `update_points` and `update_local_points` if there is that pass, scalars. A
            term without valid pixels is zero and still reaches its predictions with zero gradients.

        Raises:
            ValueError: if the prediction lacks an entry.
        """
        passes: dict[str, tuple[Tensor, Tensor] | slice] = {'': slice(None)}
        if 'update_views' in prediction:
            scenes = torch.arange(len(target.valid), device=target.valid.device)[:, None]
            passes[UPDATE] = scenes, prediction['update_views']
        needed = [prefix + name for prefix in passes for name in MAPS]
        missing = [name for name in needed if name not in prediction]
        if missing:
            raise ValueError(f'MUSt3RCriterion needs {missing} in the prediction, got {sorted(prediction)}')
        world_to_first = invert_rigid(target.camera_to_world[:, 0])[:, None, None]
        points = transform_points(world_to_first, target.points)
        metric = target.valid.new_full(target.valid.shape[:1], self.metric_scale)
        terms: dict[str, Tensor] = {}
        for prefix, views in passes.items():
            maps = {name: prediction[prefix + name] for name in MAPS}
            truth = points[views], target.local_points[views], target.valid[views]
            terms |= {prefix + name: value for name, value in self.compare(maps, *truth, metric=metric).items()}
        return terms

    def compare(
        self,
        prediction: GeometryPrediction,
        points: Tensor,
        local_points: Tensor,
        valid: Tensor,
        *,
        metric: Tensor,
        sky: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The terms of one pass.

        Args:
            prediction: `points`, `local_points` (B, V, H, W, 3) and `confidence` (B, V, H, W), above 1.
            points: true, in the frame of the first camera, (B, V, H, W, 3).
            local_points: true, in each view's camera frame, (B, V, H, W, 3).
            valid: (B, V, H, W), bool.
            metric: (B,), bool, scenes whose predicted scale counts.
            sky: (B, V, H, W), bool; those that are not valid count with the constant distance `sky_value`.
        """
        true_scale = mean_distance(points, valid)
        scale = torch.where(metric, true_scale, mean_distance(prediction['points'], valid))
        scene = valid.nonzero()[:, 0]  # of every valid pixel
        sky = torch.zeros_like(valid) if sky is None else sky & ~valid
        confidence = torch.cat([prediction['confidence'][valid], prediction['confidence'][sky]])
        terms = {}
        for name, true in (('points', points), ('local_points', local_points)):
            ours, theirs = prediction[name][valid] / scale[scene, None], true[valid] / true_scale[scene, None]
            if self.loss_in_log:
                ours, theirs = compress_points(ours), compress_points(theirs)
            distance = torch.linalg.vector_norm(ours - theirs, dim=-1)
            distance = torch.cat([distance, distance.new_full((int(sky.sum()),), self.sky_value)])
            terms[name] = weigh_by_confidence(distance, confidence, alpha=self.confidence_alpha)
        return terms
