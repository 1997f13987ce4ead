"""How many objects share a predicted segment with another one."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import reduce
from typing import Any

from pano3d.functional.merged_instances import MergedCounts, check_major_part, merged_counts
from pano3d.registry import METRICS
from pano3d.structures import LabelSpace, PanopticMap

from .protocol_metric import ProtocolMetric, gt_panoptic, load_label_space, required


@METRICS.register_module()
class MergedInstanceMetric(ProtocolMetric):
    """Shares of the ground truth instances of things, all views of a scene being one image, counts pooled over scenes.

    Keys: `<label space>/merged_instances/pixels/<merged | covered | merged_of_covered>`. 'merged': instances that share
    with another one a predicted thing segment that covers the major part of both; smaller is better. A prediction
    that finds nothing merges nothing, so that it is read together with 'covered', the instances of which some predicted
    thing segment covers the major part; 'merged_of_covered' is their ratio, nan if nothing is covered.

    Args:
        label_space: name of a label space, path of its file, or the label space.
        major_part: the share of an instance's pixels that a segment must exceed to cover it.
        collect_device: where mmengine collects states of several processes, 'cpu' or 'gpu'.

    Raises:
        ValueError: if `major_part` is not in [0, 1).
    """

    def __init__(self, *, label_space: str | LabelSpace, major_part: float = 0.5, collect_device: str = 'cpu') -> None:
        check_major_part(major_part)
        self.label_space = load_label_space(label_space)
        self.major_part = major_part
        super().__init__(prefix=f'{self.label_space.name}/merged_instances/pixels', collect_device=collect_device)

    def scene_state(self, sample: Mapping[str, Any]) -> MergedCounts:
        predicted = required(sample, 'pred_panoptic', PanopticMap)
        gt = gt_panoptic(sample, self.label_space)
        if predicted.shape != gt.shape:
            raise ValueError(
                f'`pred_panoptic` must have the size of `gt_panoptic` (V, H, W), {tuple(gt.shape)}, '
                f'got {tuple(predicted.shape)}'
            )
        return merged_counts(
            predicted_category=predicted.category,
            predicted_instance=predicted.instance,
            gt_category=gt.category,
            gt_instance=gt.instance,
            is_stuff=self.label_space.is_stuff,
            major_part=self.major_part,
        )

    def summarize(self, states: list[MergedCounts]) -> dict[str, float]:
        total = reduce(operator.add, states)
        return {
            'merged': _ratio(total.merged, total.instances),
            'covered': _ratio(total.covered, total.instances),
            'merged_of_covered': _ratio(total.merged, total.covered),
        }


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float('nan')
