"""Semantics in space: miou_voxel."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from pano3d.functional.confusion import SemanticCounts, class_iou
from pano3d.functional.voxels import occupancy_iou, voxel_counts
from pano3d.registry import METRICS
from pano3d.structures import LabelSpace

from .own_geometry import aligned_points
from .protocol_metric import ProtocolMetric, check_views, gt_views, load_label_space
from .semantic_iou_metric import predicted_category


@METRICS.register_module()
class VoxelMetric(ProtocolMetric):
    """mIoU of voxels, a fraction: a prediction must be right in space and in class.

    The predicted points are brought to the ground truth by one Sim(3) per scene, from the pixels where both geometries
    are valid. The predicted cloud holds those of them whose true class is not void, the true one all that it knows.

    Keys: `<label space>/miou_voxel/own_geometry/<mIoU | mIoU_pooled | occupancy_IoU>`, and `.../IoU/<class>` if
    `per_class`. mIoU and occupancy, IoU without classes, are means over scenes; mIoU_pooled and the classes are of the
    voxels of all scenes. Choices other than the defaults are named:
    `miou_voxel[_panoptic][_gt_or_predicted | _all][_ignore_void]`.

    Args:
        label_space: name of a label space, path of its file, or the label space.
        voxel_size: edge of a voxel, metres.
        read_out: 'semantic' or 'panoptic', as of `SemanticIoUMetric`.
        classes: over which a mean runs: 'gt', those in the ground truth; 'gt_or_predicted'; or 'all', absent ones
            score 0.
        ignore_gt_void_voxels: leave out voxels whose ground truth is all void; otherwise what is predicted there is
            wrong.
        min_confidence_quantile: share of the predicted points, those of the lowest confidence, that is dropped.
        min_points: voxels with fewer points are empty, in both clouds.
        per_class: also report the IoU of every class.
        collect_device: where mmengine collects states of several processes, 'cpu' or 'gpu'.
    """

    def __init__(
        self,
        *,
        label_space: str | LabelSpace,
        voxel_size: float = 0.1,
        read_out: str = 'semantic',
        classes: str = 'gt',
        ignore_gt_void_voxels: bool = False,
        min_confidence_quantile: float = 0.0,
        min_points: int = 1,
        per_class: bool = False,
        collect_device: str = 'cpu',
    ) -> None:
        choices = {
            'read_out': (read_out, {'semantic': '', 'panoptic': '_panoptic'}),
            'classes': (classes, {'gt': '', 'gt_or_predicted': '_gt_or_predicted', 'all': '_all'}),
        }
        for name, (value, suffixes) in choices.items():
            if value not in suffixes:
                raise ValueError(f'`{name}` must be one of {list(suffixes)}, got {value!r}')
        if not 0 <= min_confidence_quantile < 1:
            raise ValueError(f'`min_confidence_quantile` must lie in [0, 1), got {min_confidence_quantile}')
        self.label_space = load_label_space(label_space)
        self.voxel_size = voxel_size
        self.read_out = read_out
        self.classes = classes
        self.ignore_gt_void_voxels = ignore_gt_void_voxels
        self.min_confidence_quantile = min_confidence_quantile
        self.min_points = min_points
        self.per_class = per_class
        protocol = 'miou_voxel' + ''.join(suffixes[value] for value, suffixes in choices.values())
        protocol += '_ignore_void' if ignore_gt_void_voxels else ''
        super().__init__(prefix=f'{self.label_space.name}/{protocol}/own_geometry', collect_device=collect_device)

    def scene_state(self, sample: Mapping[str, Any]) -> SemanticCounts:
        points, predicted, gt = aligned_points(sample)
        category = predicted_category(sample, self.label_space, self.read_out).to('cpu')
        gt_category = gt_views(sample, self.label_space).category.to('cpu')
        check_views(sample, f'pred_{self.read_out}', category.shape)
        check_views(sample, 'gt_panoptic', gt_category.shape)
        paired = predicted.valid & gt.valid
        sure = paired & self._is_sure(predicted.confidence, paired) & (gt_category >= 0)
        return voxel_counts(
            predicted_points=points[sure],
            predicted_category=category[sure],
            gt_points=gt.points[gt.valid],
            gt_category=gt_category[gt.valid],
            num_classes=self.label_space.num_classes,
            voxel_size=self.voxel_size,
            min_points=self.min_points,
            ignore_gt_void_voxels=self.ignore_gt_void_voxels,
        )

    def summarize(self, states: list[SemanticCounts]) -> dict[str, float]:
        pooled = reduce(operator.add, states)
        metrics = {
            'mIoU': float(torch.stack([self._mean(counts) for counts in states]).nanmean()),
            'mIoU_pooled': float(self._mean(pooled)),
            'occupancy_IoU': float(torch.stack([occupancy_iou(counts) for counts in states]).nanmean()),
        }
        if self.per_class:
            iou = class_iou(pooled, count_gt_void=True).tolist()
            metrics |= {f'IoU/{name}': value for name, value in zip(self.label_space.names, iou, strict=True)}
        return metrics

    def _mean(self, counts: SemanticCounts) -> Tensor:
        return mean_voxel_iou(counts, classes=self.classes)

    def _is_sure(self, confidence: Tensor, paired: Tensor) -> Tensor:
        ranked = confidence[paired].sort().values
        lowest = int(self.min_confidence_quantile * len(ranked))
        return confidence >= ranked[lowest]


def mean_voxel_iou(counts: SemanticCounts, *, classes: str) -> Tensor:
    """Mean IoU, () float64, over the classes of `VoxelMetric`; nan if there is none of them."""
    iou = class_iou(counts, count_gt_void=True)
    if classes == 'gt':
        return torch.where(counts.labelled > 0, iou, torch.nan).nanmean()
    return iou.nanmean() if classes == 'gt_or_predicted' else iou.nan_to_num(nan=0.0).mean()
