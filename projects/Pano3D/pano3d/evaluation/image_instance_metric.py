"""Instance AP of views: ap_2d."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import reduce
from typing import Any

from pano3d.functional.average_precision import InstanceMatches, interpolated_average_precision
from pano3d.functional.image_instances import COCO_THRESHOLDS, image_instance_matches
from pano3d.registry import METRICS
from pano3d.structures import LabelSpace, MaskProposals, PanopticMap

from .predicted_segments import proposals_by_view
from .protocol_metric import ProtocolMetric, gt_views, load_label_space


@METRICS.register_module()
class ImageInstanceMetric(ProtocolMetric):
    """COCO mask AP, AP50 and AP75, fractions: every view is an image, thing classes only.

    Reads `pred_proposals` (K, V, H, W), or else the segments of `pred_panoptic` with the scores of `pred_segments`.

    Keys: `<label space>/ap_2d/pixels/<AP | AP50 | AP75>`, and `.../AP/<class>` if `per_class`; `ap_2d_void_background`
    in place of `ap_2d` without `void_is_crowd`.

    Args:
        label_space: name of a label space, path of its file, or the label space.
        void_is_crowd: excuse masks on void ground truth; otherwise void is background.
        per_class: also report AP of every thing class.
        collect_device: where mmengine collects states of several processes, 'cpu' or 'gpu'.
    """

    def __init__(
        self,
        *,
        label_space: str | LabelSpace,
        void_is_crowd: bool = True,
        per_class: bool = False,
        collect_device: str = 'cpu',
    ) -> None:
        self.label_space = load_label_space(label_space)
        self.void_is_crowd = void_is_crowd
        self.per_class = per_class
        name = 'ap_2d' if void_is_crowd else 'ap_2d_void_background'
        super().__init__(prefix=f'{self.label_space.name}/{name}/pixels', collect_device=collect_device)

    def scene_state(self, sample: Mapping[str, Any]) -> InstanceMatches:
        gt = gt_views(sample, self.label_space).to('cpu')
        views = list(proposals_by_view(sample))
        if len(views) != len(gt.category):
            raise ValueError(
                f'the prediction must have the {len(gt.category)} views of `gt_panoptic`, got {len(views)}'
            )
        return reduce(operator.add, map(self._match_view, views, (gt[view] for view in range(len(views)))))

    def summarize(self, states: list[InstanceMatches]) -> dict[str, float]:
        values = interpolated_average_precision(reduce(operator.add, states))
        metrics = {
            'AP': float(values.nanmean()),
            'AP50': float(values[:, 0].nanmean()),
            'AP75': float(values[:, COCO_THRESHOLDS.index(0.75)].nanmean()),
        }
        if self.per_class:
            names = zip(self.label_space.names, values.mean(1).tolist(), strict=True)
            metrics |= {f'AP/{name}': value for name, value in names if name not in self.label_space.stuff}
        return metrics

    def _match_view(self, proposals: MaskProposals, gt: PanopticMap) -> InstanceMatches:
        return image_instance_matches(
            masks=proposals.masks,
            category=proposals.category,
            score=proposals.score,
            gt_category=gt.category.long(),
            gt_instance=gt.instance.long(),
            is_stuff=self.label_space.is_stuff,
            void_is_crowd=self.void_is_crowd,
        )
