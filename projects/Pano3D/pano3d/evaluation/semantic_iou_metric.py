"""Mean IoU and mean accuracy of the classes of all pixels."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from pano3d.functional.confusion import SemanticCounts, class_accuracy, class_iou, overall_accuracy, semantic_counts
from pano3d.registry import METRICS
from pano3d.structures import VOID, LabelSpace, PanopticMap

from .protocol_metric import ProtocolMetric, gt_views, load_label_space, required
from .shared_sample import derived

READ_OUT_PROTOCOLS = {'semantic': 'miou', 'panoptic': 'miou_panoptic'}


@METRICS.register_module()
class SemanticIoUMetric(ProtocolMetric):
    """mIoU, mAcc and overall accuracy, fractions, of the pixels of all scenes pooled.

    Keys: `<label space>/miou/pixels/<mIoU | mAcc | Acc>`, and `.../IoU/<class>` if `per_class`; `miou_panoptic` in
    place of `miou` for that read-out, `_siu3r` behind it for those rules.

    Args:
        label_space: name of a label space, path of its file, or the label space.
        read_out: 'semantic', the class of the highest probability in `pred_semantic`, so no pixel is void; or
            'panoptic', the category of `pred_panoptic`.
        rules: 'scannet', pixels with void ground truth are left out, and classes in neither prediction nor ground
            truth do not enter the mean; or 'siu3r', predictions there are false positives, and such classes score 0.
        per_class: also report the IoU of every class.
        collect_device: where mmengine collects states of several processes, 'cpu' or 'gpu'.
    """

    def __init__(
        self,
        *,
        label_space: str | LabelSpace,
        read_out: str = 'semantic',
        rules: str = 'scannet',
        per_class: bool = False,
        collect_device: str = 'cpu',
    ) -> None:
        if read_out not in READ_OUT_PROTOCOLS:
            raise ValueError(f'`read_out` must be one of {list(READ_OUT_PROTOCOLS)}, got {read_out!r}')
        if rules not in ('scannet', 'siu3r'):
            raise ValueError(f"`rules` must be 'scannet' or 'siu3r', got {rules!r}")
        self.label_space = load_label_space(label_space)
        self.read_out = read_out
        self.rules = rules
        self.per_class = per_class
        name = READ_OUT_PROTOCOLS[read_out] + ('_siu3r' if rules == 'siu3r' else '')
        super().__init__(prefix=f'{self.label_space.name}/{name}/pixels', collect_device=collect_device)

    def scene_state(self, sample: Mapping[str, Any]) -> SemanticCounts:
        predicted = predicted_category(sample, self.label_space, self.read_out)
        gt = gt_views(sample, self.label_space).category.to(predicted.device)
        return semantic_counts(predicted=predicted, gt=gt, num_classes=self.label_space.num_classes).to('cpu')

    def summarize(self, states: list[SemanticCounts]) -> dict[str, float]:
        counts = reduce(operator.add, states)
        iou = class_iou(counts, count_gt_void=self.rules == 'siu3r')
        if self.rules == 'siu3r':
            iou = iou.nan_to_num(nan=0.0)
        metrics = semantic_scores(counts) | {'mIoU': float(iou.nanmean())}
        if self.per_class:
            metrics |= {f'IoU/{name}': value for name, value in zip(self.label_space.names, iou.tolist(), strict=True)}
        return metrics


def predicted_category(sample: Mapping[str, Any], label_space: LabelSpace, read_out: str) -> Tensor:
    """Class of every pixel (V, H, W): the most probable of `pred_semantic`, or that of `pred_panoptic`, -1 = void.

    Raises:
        ValueError: if the field is missing or does not fit the label space, or a probability is nan.
    """
    if read_out == 'panoptic':
        return required(sample, 'pred_panoptic', PanopticMap).category
    return derived(sample, ('most probable', label_space), lambda: _most_probable(sample, label_space))


def class_probabilities(sample: Mapping[str, Any], label_space: LabelSpace) -> Tensor:
    """`pred_semantic` (V, C, H, W) in the type that it has, half precision too; errors as `predicted_category`."""
    predicted_category(sample, label_space, 'semantic')
    return required(sample, 'pred_semantic', Tensor)


def _most_probable(sample: Mapping[str, Any], label_space: LabelSpace) -> Tensor:
    """View by view: all probabilities of a scene may be most of the memory."""
    probabilities = required(sample, 'pred_semantic', Tensor)
    if probabilities.ndim != 4 or probabilities.shape[1] != label_space.num_classes:
        raise ValueError(
            f'`pred_semantic` must have shape (V, {label_space.num_classes}, H, W), got {tuple(probabilities.shape)}'
        )
    category = probabilities.new_empty((len(probabilities), *probabilities.shape[2:]), dtype=torch.int64)
    wrong = 0
    for view, scores in enumerate(probabilities):
        highest = scores.max(0)
        wrong += int(highest.values.isnan().sum())  # nan is the maximum of anything with nan
        category[view] = torch.where(highest.values == 0, VOID, highest.indices)
    if wrong:
        raise ValueError(f'`pred_semantic` is nan at {wrong} of {category.numel()} pixels')
    return category


def semantic_scores(counts: SemanticCounts) -> dict[str, float]:
    """mIoU, mAcc and Acc by the rules of ScanNet."""
    return {
        'mIoU': float(class_iou(counts).nanmean()),
        'mAcc': float(class_accuracy(counts).nanmean()),
        'Acc': float(overall_accuracy(counts)),
    }
