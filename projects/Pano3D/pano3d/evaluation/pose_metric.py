"""Errors of camera poses: pose_auc, pose_ate."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from functools import reduce
from typing import Any, Literal

import torch
from torch import Tensor

from pano3d.functional.pose_error import PoseCounts, pair_errors, pose_counts, pose_scores, trajectory_errors
from pano3d.registry import METRICS
from pano3d.structures import Reconstruction

from .protocol_metric import ProtocolMetric, required


@METRICS.register_module()
class PosePairMetric(ProtocolMetric):
    """RRA, RTA and AUC, fractions, of the relative poses of all pairs of views of a scene.

    Keys: `pose_auc/own_geometry/<RRA | RTA | AUC>@<degrees>`. Choices other than the defaults are named:
    `pose_auc[_scene_mean][_reversed | _both][_histc]`.

    Args:
        thresholds: whole degrees.
        averaging: 'pairs', all pairs of all scenes pooled (VGGT, Pi3), or 'scenes', mean of the scores of scenes.
        direction: in whose axes translations are compared, 'forward', 'reversed' or 'both', see `pair_errors`; only
            with 'both' the order of views does not matter.
        bins: of the histogram behind AUC, 'degree' (PoseDiffusion, Pi3) or 'histc', see `pose_counts`.
        collect_device: where mmengine collects states of several processes, 'cpu' or 'gpu'.
    """

    def __init__(
        self,
        *,
        thresholds: Sequence[int] = (5, 15, 30),
        averaging: Literal['pairs', 'scenes'] = 'pairs',
        direction: Literal['forward', 'reversed', 'both'] = 'forward',
        bins: Literal['degree', 'histc'] = 'degree',
        collect_device: str = 'cpu',
    ) -> None:
        choices = {
            'averaging': (averaging, {'pairs': '', 'scenes': '_scene_mean'}),
            'direction': (direction, {'forward': '', 'reversed': '_reversed', 'both': '_both'}),
            'bins': (bins, {'degree': '', 'histc': '_histc'}),
        }
        for name, (value, suffixes) in choices.items():
            if value not in suffixes:
                raise ValueError(f'`{name}` must be one of {list(suffixes)}, got {value!r}')
        self.thresholds = tuple(thresholds)
        self.averaging = averaging
        self.direction = direction
        self.bins = bins
        name = 'pose_auc' + ''.join(suffixes[value] for value, suffixes in choices.values())
        super().__init__(prefix=f'{name}/own_geometry', collect_device=collect_device)

    def scene_state(self, sample: Mapping[str, Any]) -> PoseCounts:
        predicted, gt = _cameras(sample)
        errors = pair_errors(predicted=predicted, gt=gt, direction=self.direction)
        return pose_counts(errors, thresholds=self.thresholds, bins=self.bins)

    def summarize(self, states: list[PoseCounts]) -> dict[str, float]:
        if self.averaging == 'pairs':
            states = [reduce(operator.add, states)]
        scores = torch.stack([pose_scores(counts) for counts in states]).nanmean(0)
        return {
            f'{name}@{threshold}': float(score)
            for name, row in zip(('RRA', 'RTA', 'AUC'), scores, strict=True)
            for threshold, score in zip(self.thresholds, row, strict=True)
        }


@METRICS.register_module()
class TrajectoryMetric(ProtocolMetric):
    """ATE and RPE after one Sim(3) per scene between the camera centres: root mean squares, mean over scenes.

    Scenes whose centres lie on one line, or are fewer than three, have no such Sim(3) and are left out of the mean.

    Keys: `pose_ate/own_geometry/<ATE | RPE_translation | RPE_rotation>`, metres, metres, degrees.

    Args:
        collect_device: where mmengine collects states of several processes, 'cpu' or 'gpu'.
    """

    def __init__(self, *, collect_device: str = 'cpu') -> None:
        super().__init__(prefix='pose_ate/own_geometry', collect_device=collect_device)

    def scene_state(self, sample: Mapping[str, Any]) -> Tensor:
        """ATE and both RPE of the scene, (3,)."""
        predicted, gt = _cameras(sample)
        errors = trajectory_errors(predicted=predicted, gt=gt)
        return torch.tensor(astuple(errors), dtype=torch.float64)

    def summarize(self, states: list[Tensor]) -> dict[str, float]:
        means = torch.stack(states).nanmean(0).tolist()
        return dict(zip(('ATE', 'RPE_translation', 'RPE_rotation'), means, strict=True))


def _cameras(sample: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    predicted = required(sample, 'pred_reconstruction', Reconstruction)
    gt = required(sample, 'gt_reconstruction', Reconstruction)
    return predicted.camera_to_world, gt.camera_to_world
