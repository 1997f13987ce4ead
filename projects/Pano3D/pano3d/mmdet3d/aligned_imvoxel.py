"""mmdet3d's `ImVoxelHead` for boxes without yaw, on any device; imports mmdet3d."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.losses import FocalLoss
from mmdet3d.models.dense_heads import ImVoxelHead
from mmdet3d.models.layers import aligned_3d_nms
from mmdet3d.models.losses import AxisAlignedIoULoss
from torch import Tensor


class AlignedImVoxelHead(ImVoxelHead):
    """What `ImVoxelHead` of 1.4.0 leaves open for boxes (centre, size): it reads a yaw that is not there, has no
    suppression of doubles on the CPU, and does not train on scenes without boxes."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(n_reg_outs=6, **arguments)
        self.bbox_loss = CentreSizeIoULoss()
        self.cls_loss = NegativeFocalLoss()

    @staticmethod
    def _bbox_pred_to_bbox(points: Tensor, bbox_pred: Tensor) -> Tensor:
        """Distances (N, 6) from points to the faces, as (-x, +x, -y, +y, -z, +z), to centre and size."""
        low, high = bbox_pred[:, 0::2], bbox_pred[:, 1::2]
        return torch.cat([points + (high - low) / 2, low + high], dim=1)

    def _get_targets(self, points: list[Tensor], gt_bboxes: Any, gt_labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if len(gt_bboxes):
            return super()._get_targets(points, gt_bboxes, gt_labels)
        places = torch.cat(points)
        return (
            places.new_zeros(len(places)),
            places.new_zeros(len(places), 6),
            gt_labels.new_full((len(places),), -1),
        )

    def _single_scene_multiclass_nms(
        self, bboxes: Tensor, scores: Tensor, input_meta: dict
    ) -> tuple[Tensor, Tensor, Tensor]:
        place, labels = (scores > self.test_cfg.score_thr).nonzero(as_tuple=True)
        boxes, scores = bboxes[place], scores[place, labels]
        kept = aligned_3d_nms(_corners(boxes), scores, labels, self.test_cfg.iou_thr)
        return boxes[kept], scores[kept], labels[kept]


class CentreSizeIoULoss(AxisAlignedIoULoss):
    """mmdet3d's, for boxes (N, 6) as centre and size."""

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None, **options: Any) -> Tensor:
        return super().forward(_corners(pred), _corners(target), weight, **options)


class NegativeFocalLoss(FocalLoss):
    """mmdet's, for targets that are -1 where nothing is: its version for the CPU wants the number of classes there."""

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None, **options: Any) -> Tensor:
        return super().forward(pred, torch.where(target < 0, pred.shape[1], target), weight, **options)


def _corners(boxes: Tensor) -> Tensor:
    """Centre and size (N, 6) to the lowest and the highest corner (N, 6)."""
    return torch.cat([boxes[:, :3] - boxes[:, 3:] / 2, boxes[:, :3] + boxes[:, 3:] / 2], dim=1)
