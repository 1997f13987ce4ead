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
RULES: dict[str, dict[str, Any]] = {'iggt': {}, 'pi3': {'median': 'lower', 'clip': None}}
RULE_AVERAGING = {'iggt': 'scenes', 'pi3': 'pixels'}
AVERAGING = {
    # whether views weigh by their pixels, and scenes by the weight of their views
    'scenes': (False, False),
    'views': (False, True),
    'scene_pixels': (True, False),
    'pixels': (True, True),
}


@METRICS.register_module()
class DepthMetric(ProtocolMetric):
    """AbsRel and the inlier ratio tau at 1.03, both fractions, of the predicted depth after median alignment.

    Protocols: 'depth_per_view', one scale per view; 'depth_mvd', one scale per scene. Views without ground truth are
    left out.

    Keys: `<protocol>/own_geometry/<AbsRel | tau>`. Rules other than 'iggt', and an averaging other than that of the
    rules, are named: `<protocol>[_pi3][_<averaging>]`.

    Args:
        protocol: 'depth_per_view' or 'depth_mvd'.
        rules: 'iggt', or 'pi3': the lower of two middle values is the median, and nothing is clipped.
        averaging: 'scenes', over the views of a scene, then over scenes; 'views', over the views of all scenes;
            'scene_pixels', over the pixels of a scene, then over scenes; 'pixels', over the pixels of all scenes. None
            means that of the rules, 'scenes' of 'iggt' and 'pixels' of 'pi3'.
        collect_device: where mmengine collects states of several processes, 'cpu' or 'gpu'.
    """

    def __init__(
        self,
        *,
        protocol: str = 'depth_per_view',
        rules: str = 'iggt',
        averaging: str | None = None,
        collect_device: str = 'cpu',
    ) -> None:
        if protocol not in ALIGNMENTS:
            raise ValueError(f'`protocol` must be one of {list(ALIGNMENTS)}, got {protocol!r}')
        if rules not in RULES:
            raise ValueError(f'`rules` must be one of {list(RULES)}, got {rules!r}')
        averaging = averaging or RULE_AVERAGING[rules]
        if averaging not in AVERAGING:
            raise ValueError(f'`averaging` must be one of {list(AVERAGING)}, got {averaging!r}')
        self.alignment = ALIGNMENTS[protocol]
        self.rules = RULES[rules]
        self.weigh_by_pixels, self.pool_scenes = AVERAGING[averaging]
        name = protocol if rules == 'iggt' else f'{protocol}_{rules}'
        name = name if averaging == RULE_AVERAGING[rules] else f'{name}_{averaging}'
        super().__init__(prefix=f'{name}/own_geometry', collect_device=collect_device)

    def scene_state(self, sample: Mapping[str, Any]) -> Tensor:
        """AbsRel and tau of the scene, and its weight in the mean, (3,); nan, nan, 0 without any ground truth."""
        predicted = required(sample, 'pred_reconstruction', Reconstruction)
        gt = required(sample, 'gt_reconstruction', Reconstruction).to(predicted.depth.device)
        errors = depth_errors(
            predicted=predicted.depth, gt=gt.depth, valid=gt.valid, alignment=self.alignment, **self.rules
        )
        weights = (errors.num_valid if self.weigh_by_pixels else errors.num_valid > 0).double()
        total = weights.sum()
        means = (weights * torch.stack([errors.abs_rel, errors.inlier_ratio])).nansum(1) / total
        weight = total if self.pool_scenes else (total > 0).double()
        return torch.cat([means, weight[None]]).cpu()

    def summarize(self, states: list[Tensor]) -> dict[str, float]:
        values, weights = torch.stack(states).split([2, 1], dim=1)
        abs_rel, tau = ((weights * values).nansum(0) / weights.sum()).tolist()
        return {'AbsRel': abs_rel, 'tau': tau}
