"""Depth error of views: depth_per_view, depth_mvd."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from pano3d.functional.depth_error import depth_errors
from pano3d.registry import METRICS
from pano3d.structures import Reconstruction

from .protocol_metric import ProtocolMetric, required

ALIGNMENTS: dict[str, Literal['view', 'scene']] = {'depth_per_view': 'view', 'depth_mvd': 'scene'}


@METRICS.register_module()
class DepthMetric(ProtocolMetric):
    """AbsRel and the inlier ratio tau at 1.03, both fractions, of the predicted depth after median alignment.

    Protocols: 'depth_per_view', one scale per view; 'depth_mvd', one scale per scene. Errors are averaged over the
    views of a scene that have ground truth, then over scenes.

    Keys: `<protocol>/own_geometry/<AbsRel | tau>`.

    Args:
        protocol: 'depth_per_view' or 'depth_mvd'.
        collect_device: where mmengine collects states of several processes, 'cpu' or 'gpu'.
    """

    def __init__(self, *, protocol: str = 'depth_per_view', collect_device: str = 'cpu') -> None:
        if protocol not in ALIGNMENTS:
            raise ValueError(f'`protocol` must be one of {list(ALIGNMENTS)}, got {protocol!r}')
        self.alignment = ALIGNMENTS[protocol]
        super().__init__(prefix=f'{protocol}/own_geometry', collect_device=collect_device)

    def scene_state(self, sample: Mapping[str, Any]) -> Tensor:
        """AbsRel and tau of the scene, (2,); nan without any ground truth."""
        predicted = required(sample, 'pred_reconstruction', Reconstruction)
        gt = required(sample, 'gt_reconstruction', Reconstruction).to(predicted.depth.device)
        errors = depth_errors(predicted=predicted.depth, gt=gt.depth, valid=gt.valid, alignment=self.alignment)
        return torch.stack([errors.abs_rel, errors.inlier_ratio]).nanmean(1).cpu()

    def summarize(self, states: list[Tensor]) -> dict[str, float]:
        abs_rel, tau = torch.stack(states).nanmean(0).tolist()
        return {'AbsRel': abs_rel, 'tau': tau}
