"""Panoptic quality of views: pq_view, pq_scene_mean, pq_scene_pooled."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor

from pano3d.functional.panoptic_quality import (
    PanopticCounts,
    panoptic_counts,
    panoptic_lifting_counts,
    panoptic_quality,
)
from pano3d.registry import METRICS
from pano3d.structures import LabelSpace, PanopticMap

from .protocol_metric import ProtocolMetric, gt_views, load_label_space, required

COUNTING_RULES: dict[str, Callable[..., PanopticCounts]] = {
    'coco': panoptic_counts,
    'torchmetrics': partial(panoptic_counts, excuse_predicted_void=True),
    'siu3r': partial(panoptic_counts, excuse_predicted_void=True, absent_classes_count=True),
    'panoptic_lifting': panoptic_lifting_counts,
}
PROTOCOL_RULES = {'pq_view': 'coco', 'pq_scene_mean': 'coco', 'pq_scene_pooled': 'siu3r'}


@METRICS.register_module()
class ScenePanopticMetric(ProtocolMetric):
    """PQ, SQ and RQ, fractions, over all classes, things and stuff.

    Protocols: 'pq_view', every view is an image, counts are pooled over all views of all scenes; 'pq_scene_mean', all
    views of a scene are one image, scores are averaged over scenes; 'pq_scene_pooled', all views of a scene are one
    image, counts are pooled over scenes. A mean over scenes leaves out scenes where a score is undefined.

    Keys: `<label space>/<protocol>/pixels/<PQ | SQ | RQ>[_things | _stuff]`, and `.../PQ/<class>` if `per_class`. Rules
    other than the protocol's own are named: `<protocol>_<rules>`.

    Args:
        label_space: name of a label space, path of its file, or the label space.
        protocol: 'pq_view', 'pq_scene_mean' or 'pq_scene_pooled'.
        rules: 'coco', 'torchmetrics', 'siu3r' or 'panoptic_lifting', see docs/protocols.md; None means the protocol's
            own: 'coco', for 'pq_scene_pooled' 'siu3r'.
        per_class: also report PQ of every class.
        collect_device: where mmengine collects states of several processes, 'cpu' or 'gpu'.
    """

    def __init__(
        self,
        *,
        label_space: str | LabelSpace,
        protocol: str = 'pq_scene_mean',
        rules: str | None = None,
        per_class: bool = False,
        collect_device: str = 'cpu',
    ) -> None:
        if protocol not in PROTOCOL_RULES:
            raise ValueError(f'`protocol` must be one of {list(PROTOCOL_RULES)}, got {protocol!r}')
        rules = rules or PROTOCOL_RULES[protocol]
        if rules not in COUNTING_RULES:
            raise ValueError(f'`rules` must be one of {list(COUNTING_RULES)}, got {rules!r}')
        self.label_space = load_label_space(label_space)
        self.protocol = protocol
        self.count = COUNTING_RULES[rules]
        self.per_class = per_class
        name = protocol if rules == PROTOCOL_RULES[protocol] else f'{protocol}_{rules}'
        super().__init__(prefix=f'{self.label_space.name}/{name}/pixels', collect_device=collect_device)

    def scene_state(self, sample: Mapping[str, Any]) -> PanopticCounts:
        predicted = required(sample, 'pred_panoptic', PanopticMap)
        gt = gt_views(sample, self.label_space)
        if predicted.shape != gt.shape:
            raise ValueError(
                f'`pred_panoptic` must have the size of `gt_panoptic` (V, H, W), {tuple(gt.shape)}, '
                f'got {tuple(predicted.shape)}'
            )
        return self.count(
            predicted_category=predicted.category,
            predicted_instance=predicted.instance,
            gt_category=gt.category,
            gt_instance=gt.instance,
            is_stuff=self.label_space.is_stuff,
            stacked=self.protocol == 'pq_view',
        )

    def summarize(self, states: list[PanopticCounts]) -> dict[str, float]:
        if self.protocol != 'pq_scene_mean':
            states = [reduce(operator.add, states)]
        return panoptic_scores(states, self.label_space, per_class=self.per_class)


def panoptic_scores(states: list[PanopticCounts], label_space: LabelSpace, *, per_class: bool) -> dict[str, float]:
    """Means over the classes and then over the states of PQ, SQ and RQ: of all classes, things and stuff."""
    scores = torch.stack([panoptic_quality(counts) for counts in states])  # (scenes, 3, classes)
    metrics: dict[str, float] = {}
    for suffix, members in _groups(label_space.is_stuff, scores.shape[-1]).items():
        means = scores[..., members].nanmean(-1).nanmean(0).tolist()
        metrics |= {f'{name}{suffix}': mean for name, mean in zip(('PQ', 'SQ', 'RQ'), means, strict=True)}
    if per_class:
        pq = scores[:, 0].nanmean(0).tolist()
        metrics |= {f'PQ/{name}': value for name, value in zip(label_space.names, pq, strict=False)}
    return metrics


def _groups(is_stuff: Tensor, num_columns: int) -> dict[str, Tensor]:
    """Members of each group among the columns of the scores; a column after the classes is void as a class."""
    is_stuff = torch.cat([is_stuff, is_stuff.new_ones(num_columns - len(is_stuff))])
    return {'': torch.ones_like(is_stuff), '_things': ~is_stuff, '_stuff': is_stuff}
