"""DUSt3R's training loss: points of pairs, normalised by their mean distance, with confidence."""

from __future__ import annotations

import torch
from mmengine.model import BaseModule
from torch import Tensor

from pano3d.functional.geometry import invert_rigid, transform_points
from pano3d.functional.point_regression import normalise_lengths, point_distance, weigh_by_confidence
from pano3d.functional.view_pairs import star_pairs
from pano3d.models.backbones import GeometryPrediction
from pano3d.registry import MODELS
from pano3d.structures import Reconstruction


@MODELS.register_module()
class DUSt3RCriterion(BaseModule):
    """The official confidence loss; the default is the official one.

    Every pair is compared in the frame of its first camera, prediction and target each divided by their mean distance
    to it, so neither frame nor scale of the target matters.

    Args:
        confidence_alpha: price of low confidence.
    """

    def __init__(self, *, confidence_alpha: float = 0.2) -> None:
        super().__init__()
        self.confidence_alpha = confidence_alpha

    def forward(self, prediction: GeometryPrediction, target: Reconstruction) -> dict[str, Tensor]:
        """Weighted terms of a batch; they add up to the loss.

        Args:
            prediction: `pair_points` (B, P, 2, H, W, 3) and `pair_confidence` (B, P, 2, H, W), see `DUSt3RBackbone`.
            target: the scenes, any frame and scale, (B, V, ...).

        Returns:
            `first_points` and `second_points`, scalars: the first and the second images of all pairs. A term without
            valid pixels is zero and still reaches its predictions with zero gradients.

        Raises:
            ValueError: if the prediction lacks an entry or has other pairs than the target.
        """
        points, valid = pair_targets(target)
        missing = [name for name in ('pair_points', 'pair_confidence') if name not in prediction]
        if missing:
            raise ValueError(f'DUSt3RCriterion needs {missing} in the prediction, got {sorted(prediction)}')
        if prediction['pair_points'].shape != points.shape:
            raise ValueError(
                f'`pair_points` must have shape {tuple(points.shape)} for {target.valid.shape[1]} views, '
                f'got {tuple(prediction["pair_points"].shape)}'
            )
        maps = prediction['pair_points'], prediction['pair_confidence'], points, valid
        return self.compare(*(tensor.flatten(0, 1) for tensor in maps))

    def compare(self, points: Tensor, confidence: Tensor, target: Tensor, valid: Tensor) -> dict[str, Tensor]:
        """The terms of `forward` for N pairs.

        Args:
            points: (N, 2, H, W, 3), the first and the second image, in the frame of the first camera.
            confidence: (N, 2, H, W), above 1.
            target: (N, 2, H, W, 3), in that frame.
            valid: (N, 2, H, W), bool.
        """
        points, target = normalise_lengths(points, target, valid)
        terms = {}
        for side, name in enumerate(('first_points', 'second_points')):
            known = valid[:, side]
            distance = point_distance(points[:, side], target[:, side], known)
            terms[name] = weigh_by_confidence(distance, confidence[:, side][known], alpha=self.confidence_alpha)
        return terms


def pair_targets(target: Reconstruction) -> tuple[Tensor, Tensor]:
    """Points (B, P, 2, H, W, 3) and validity (B, P, 2, H, W) of all pairs, in the frame of each pair's first camera."""
    first, second = star_pairs(target.valid.shape[1])
    index = torch.tensor([first, second], device=target.valid.device).T  # (P, 2)
    world_to_first = invert_rigid(target.camera_to_world[:, first])
    points = transform_points(world_to_first[:, :, None, None], target.points[:, index])
    return points, target.valid[:, index]
