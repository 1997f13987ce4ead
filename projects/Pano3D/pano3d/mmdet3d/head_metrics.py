"""What extra heads of mmdet3d predict, scored by mmdet3d's own metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pano3d.evaluation.protocol_metric import MissingFieldError, ProtocolMetric, gt_views, load_label_space
from pano3d.registry import METRICS
from pano3d.structures import LabelSpace

from .box_detection import as_depth_boxes, true_boxes
from .versions import require


@METRICS.register_module()
class BoxMetric(ProtocolMetric):
    """mmdet3d's `IndoorMetric` on the boxes of a `BoxDetection` head.

    True boxes are made as in its training, see there: in the same frame and, where the volume is up to scale, in the
    mean distance of the true points, so that one scale per scene is forgiven. Classes without a true box in any scene
    have no score; `indoor_eval` of 1.4.0 would make the mean of all NaN if one of them is predicted.

    Keys: `<label space>/indoor_eval/<geometry>/mAP_0.25` and `mAR_0.25`, and per class `AP_0.25/<class>`.

    Args:
        label_space: name of a label space, path of its file, or the label space.
        task: the name of the head in `extra_heads`.
        iou_thresholds: least overlaps of a hit.
        geometry: as it is named in keys; 'gt_depth' for heads with given cameras.
        collect_device: where mmengine collects states of several processes, 'cpu' or 'gpu'.

    Raises:
        ImportError: if mmdet3d is missing; says how to install it.
    """

    def __init__(
        self,
        *,
        label_space: str | LabelSpace,
        task: str = 'detection',
        iou_thresholds: Sequence[float] = (0.25, 0.5),
        geometry: str = 'own_geometry',
        collect_device: str = 'cpu',
    ) -> None:
        require('mmdet3d')
        from mmdet3d.evaluation import IndoorMetric

        self.label_space = load_label_space(label_space)
        self.task = task
        self.metric = IndoorMetric(iou_thr=[float(threshold) for threshold in iou_thresholds])
        self.metric.dataset_meta = {'classes': self.label_space.names, 'box_type_3d': 'depth'}
        super().__init__(prefix=f'{self.label_space.name}/indoor_eval/{geometry}', collect_device=collect_device)

    def scene_state(self, sample: Mapping[str, Any]) -> Any:
        """True and predicted boxes as plain tensors, which can be stored."""
        found = _prediction(sample, self.task)
        gt_views(sample, self.label_space)
        boxes, labels = true_boxes(sample, unit=found['unit'], frame=found['frame'], min_points=found['min_points'])
        predicted = torch.cat([found['bboxes_3d'].gravity_center, found['bboxes_3d'].dims], dim=1)
        state = {
            'boxes': boxes,
            'labels': labels,
            'predicted_boxes': predicted,
            'scores': found['scores_3d'],
            'predicted_labels': found['labels_3d'],
        }
        return {name: value.cpu() for name, value in state.items()}

    def summarize(self, states: list[Any]) -> dict[str, float]:
        present = torch.cat([state['labels'] for state in states]).unique()
        if not len(present):
            raise ValueError(f'{self.prefix}: no scene has a true box; nothing can be scored')
        self.metric.results.clear()
        self.metric.process({}, [_indoor_sample(state, present) for state in states])
        return _by_class(self.metric.compute_metrics(self.metric.results), self.label_space)


@METRICS.register_module()
class PointSegMetric(ProtocolMetric):
    """mmdet3d's `SegMetric` on the points of a `PointSegmentation` head: pixels with a label, whether predicted or not.

    A pixel without a predicted point is wrong. `seg_eval` of 1.4.0 would count it for another class; here it is a class
    of its own, `void`, which has no score.

    Keys: `<label space>/seg_eval/pixels/mIoU`, `acc` and `acc_cls`, and per class `IoU/<class>`.

    Args:
        label_space: name of a label space, path of its file, or the label space.
        task: the name of the head in `extra_heads`.
        collect_device: where mmengine collects states of several processes, 'cpu' or 'gpu'.

    Raises:
        ImportError: if mmdet3d is missing; says how to install it.
    """

    def __init__(
        self, *, label_space: str | LabelSpace, task: str = 'point_semantics', collect_device: str = 'cpu'
    ) -> None:
        require('mmdet3d')
        from mmdet3d.evaluation import SegMetric

        self.label_space = load_label_space(label_space)
        self.task = task
        self.void = self.label_space.num_classes
        self.metric = SegMetric()
        names = (*self.label_space.names, 'void')
        self.metric.dataset_meta = {'label2cat': dict(enumerate(names)), 'ignore_index': self.void}
        super().__init__(prefix=f'{self.label_space.name}/seg_eval/pixels', collect_device=collect_device)

    def scene_state(self, sample: Mapping[str, Any]) -> Any:
        """True and predicted labels of the labelled pixels as plain tensors, which can be stored."""
        predicted = _prediction(sample, self.task)['category']
        truth = gt_views(sample, self.label_space).category
        if predicted.shape != truth.shape:
            raise ValueError(
                f'`pred_{self.task}` is of {tuple(predicted.shape)} pixels, the truth {tuple(truth.shape)}'
            )
        known = truth >= 0
        predicted = torch.where(predicted >= 0, predicted, self.void)[known]
        return {'labels': truth[known].short().cpu(), 'predicted': predicted.short().cpu()}

    def summarize(self, states: list[Any]) -> dict[str, float]:
        self.metric.results.clear()
        self.metric.process({}, [_seg_sample(state) for state in states])
        found = self.metric.compute_metrics(self.metric.results)
        names = {'miou': 'mIoU', 'acc': 'acc', 'acc_cls': 'acc_cls'}
        scores = {short: found[name] for name, short in names.items()}
        return scores | {f'IoU/{name}': found[name] for name in self.label_space.names}


def _prediction(sample: Mapping[str, Any], task: str) -> Mapping[str, Any]:
    """Fields and meta information of `pred_<task>`."""
    found = sample.get(f'pred_{task}')
    if found is None:
        raise MissingFieldError(
            f'expected `pred_{task}` in the data sample, found nothing; a head {task!r} in `model.extra_heads` sets it'
        )
    return found.to_dict() if hasattr(found, 'to_dict') else found


def _indoor_sample(state: Mapping[str, Tensor], present: Tensor) -> dict[str, Any]:
    """What `IndoorMetric` reads of a scene; of predicted boxes those of some classes."""
    kept = torch.isin(state['predicted_labels'], present)
    return {
        'eval_ann_info': {'gt_bboxes_3d': as_depth_boxes(state['boxes']), 'gt_labels_3d': state['labels'].numpy()},
        'pred_instances_3d': {
            'bboxes_3d': as_depth_boxes(state['predicted_boxes'][kept]),
            'scores_3d': state['scores'][kept],
            'labels_3d': state['predicted_labels'][kept],
        },
    }


def _seg_sample(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What `SegMetric` reads of a scene."""
    return {
        'eval_ann_info': {'pts_semantic_mask': state['labels'].numpy()},
        'pred_pts_seg': {'pts_semantic_mask': state['predicted']},
    }


def _by_class(found: Mapping[str, float], label_space: LabelSpace) -> dict[str, float]:
    """Scores of `indoor_eval` under the keys of this project: 'chair_AP_0.25' is 'AP_0.25/chair'."""
    scores = {name: value for name, value in found.items() if name.startswith(('mAP_', 'mAR_'))}
    for class_name in label_space.names:
        for name, value in found.items():
            if name.startswith(f'{class_name}_AP_'):
                scores[f'{name.removeprefix(f"{class_name}_")}/{class_name}'] = value
    return scores
