"""mmdet3d's own metrics of labelled points on our predictions, past the defects of its version 1.4.0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pano3d.evaluation.point_metric import PointMetric
from pano3d.evaluation.predicted_segments import predicted_proposals
from pano3d.evaluation.protocol_metric import required
from pano3d.registry import METRICS
from pano3d.structures import LabelSpace, MaskProposals, PanopticMap

from .samples import semantic_mask
from .versions import require

KINDS = ('semantic', 'panoptic', 'instance')
VOID_NAME = 'void'
ID_OFFSET = 2**31
"""Ids up to here are told apart; mmdet3d's usual 2**16 ends in a KeyError at 65535."""
MAX_INSTANCES = 999
"""mmdet3d keeps class * 1000 + instance."""


@METRICS.register_module()
class Det3DMetric(PointMetric):
    """`SegMetric`, `PanopticSegMetric` or `InstanceSegMetric` of mmdet3d, to compare with tables made by it.

    Reads what our metrics of points read. What mmdet3d gets differs from its own habit in this:

    * Void is one more class, the last, and that class is ignored. Without it predicted void would count as another
      class (`seg_eval`) or end in an IndexError (`panoptic_seg_eval`).
    * Ids up to 2**31 are told apart.
    * For instances every true (category, instance) is numbered from 1, classes are the things alone.

    Keys: `<label space>/mmdet3d_<metric>/<geometry>/<name>` with mmdet3d's names; `miou`, `acc`, `acc_cls`,
    `iou/<class>`; `pq`, `sq_mean`, `rq_mean`, `miou`, ...; `all_ap`, `all_ap_50%`, `all_ap_25%`, `ap/<class>`.

    Args:
        metric: 'semantic', 'panoptic' or 'instance'.
        label_space: name of a label space, path of its file, or the label space.
        geometry: 'gt_points', labels are of points; 'gt_depth' or 'own_geometry', labels of views are carried to the
            vertices of the mesh, see `PointMetric`.
        collect_device: where mmengine collects states of several processes, 'cpu' or 'gpu'.

    Raises:
        ImportError: if mmdet3d is missing or of an unsupported version; for instances also beside numpy >= 2.4, which
            has dropped `np.in1d`.
        ValueError: on another `metric`.
    """

    def __init__(
        self,
        *,
        metric: str,
        label_space: str | LabelSpace,
        geometry: str = 'gt_points',
        collect_device: str = 'cpu',
    ) -> None:
        if metric not in KINDS:
            raise ValueError(f'`metric` must be one of {KINDS}, got {metric!r}')
        require('mmdet3d')
        if metric == 'instance':
            require('numpy')
        self.kind = metric
        protocol = f'mmdet3d_{metric}'
        super().__init__(label_space=label_space, protocol=protocol, geometry=geometry, collect_device=collect_device)
        self.metric = _build(metric, self.label_space)

    def point_state(self, sample: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
        """What mmdet3d compares, `true` and `predicted`, by its names."""
        if self.kind == 'instance':
            proposals = predicted_proposals(sample)
            truth = self.gt_points(sample, proposals.masks.shape[1:]).to('cpu')
            return {
                'true': _instances(truth, self.label_space),
                'predicted': _instance_masks(proposals, self.label_space),
            }
        predicted = required(sample, 'pred_panoptic', PanopticMap).to('cpu')
        truth = self.gt_points(sample, predicted.shape).to('cpu')
        return {'true': _masks(truth, self.label_space), 'predicted': _masks(predicted, self.label_space)}

    def summarize(self, states: list[dict[str, dict[str, Tensor]]]) -> dict[str, float]:
        if self.kind == 'instance':
            found = self.metric.compute_metrics([(state['true'], state['predicted']) for state in states])
            classes = found.pop('classes')
            return {name: float(value) for name, value in found.items()} | {
                f'ap/{name}': float(values['ap']) for name, values in classes.items()
            }
        arrays = [
            [{k: v.numpy() for k, v in state[side].items()} for side in ('true', 'predicted')] for state in states
        ]
        found = self.metric.compute_metrics([tuple(pair) for pair in arrays])
        names = self.label_space.names if self.kind == 'semantic' else ()
        return {f'iou/{k}' if k in names else k: float(v) for k, v in found.items() if k != VOID_NAME}


def _build(kind: str, label_space: LabelSpace) -> Any:
    from mmdet3d.evaluation import InstanceSegMetric, PanopticSegMetric, SegMetric

    if kind == 'instance':
        metric = InstanceSegMetric()
        things = [name for name in label_space.names if name not in label_space.stuff]
        metric.dataset_meta = {'classes': tuple(things), 'seg_valid_class_ids': tuple(range(1, len(things) + 1))}
        return metric
    if kind == 'semantic':
        metric = SegMetric()
    else:
        is_stuff = label_space.is_stuff
        metric = PanopticSegMetric(
            thing_class_inds=(~is_stuff).nonzero()[:, 0].tolist(),
            stuff_class_inds=is_stuff.nonzero()[:, 0].tolist(),
            min_num_points=1,
            id_offset=ID_OFFSET,
        )
    classes = (*label_space.names, VOID_NAME)
    metric.dataset_meta = {
        'classes': classes,
        'label2cat': dict(enumerate(classes)),
        'ignore_index': label_space.num_classes,
    }
    return metric


def _masks(labels: PanopticMap, label_space: LabelSpace) -> dict[str, Tensor]:
    """Masks for semantic and panoptic evaluation; a class of stuff is one segment."""
    semantic = semantic_mask(labels, label_space)
    is_stuff = torch.cat([label_space.is_stuff, torch.ones(1, dtype=torch.bool)])  # void, too
    instance = torch.where(is_stuff[semantic], 0, labels.instance.long())
    if instance.numel() and not 0 <= int(instance.min()) <= int(instance.max()) < ID_OFFSET - 1:
        raise ValueError(
            f'instance ids must lie in [0, {ID_OFFSET - 2}] for mmdet3d, got [{instance.min()}, {instance.max()}]'
        )
    return {'pts_semantic_mask': semantic, 'pts_instance_mask': instance}


def _thing_index(label_space: LabelSpace) -> Tensor:
    """Category -> place among the things, or their number for stuff and, as last entry, void: (C + 1,)."""
    is_thing = torch.cat([~label_space.is_stuff, torch.zeros(1, dtype=torch.bool)])
    return torch.where(is_thing, is_thing.cumsum(0) - 1, is_thing.sum())


def _instances(truth: PanopticMap, label_space: LabelSpace) -> dict[str, Tensor]:
    """Masks with an own id, from 1, of every (category, instance) of things; 0 for the rest."""
    index = _thing_index(label_space)
    semantic = index[truth.category]
    is_thing = semantic < index[-1]
    pairs = torch.stack([semantic[is_thing], truth.instance[is_thing]])
    segments, number = pairs.unique(dim=1, return_inverse=True)
    if segments.shape[1] > MAX_INSTANCES:
        raise ValueError(f'mmdet3d counts up to {MAX_INSTANCES} instances per scene, got {segments.shape[1]}')
    instance = torch.zeros_like(semantic)
    instance[is_thing] = number + 1
    return {'pts_semantic_mask': semantic, 'pts_instance_mask': instance}


def _instance_masks(proposals: MaskProposals, label_space: LabelSpace) -> dict[str, Tensor]:
    """The masks of things as one map of their places, -1 for none."""
    index = _thing_index(label_space)
    label = index[proposals.category]
    kept = label < index[-1]
    masks, label, score = proposals.masks[kept], label[kept], proposals.score[kept]
    if (masks.sum(0) > 1).any():
        raise ValueError('mmdet3d keeps one instance per point, but masks of `pred_proposals` overlap')
    place = torch.arange(1, len(masks) + 1)[:, None]
    return {
        'pts_instance_mask': (masks * place).sum(0) - 1,
        'instance_labels': label,
        'instance_scores': score,
    }
