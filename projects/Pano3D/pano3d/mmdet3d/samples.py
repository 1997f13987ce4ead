"""`SceneSample` <-> mmdet3d's `Det3DDataSample`.

| | here | mmdet3d |
| --- | --- | --- |
| axes | OpenCV: x right, y down, z forward | depth coordinates: x right, y forward, z up |
| labels | of the pixels of V views, or of points (N,) | of points (N,) |
| void | category -1 | `pts_semantic_mask` = number of classes |
| instance | 0 for stuff and none | ground truth: the same; prediction: place in `instance_labels`, -1 for void |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pano3d.evaluation.predicted_segments import scored_segments
from pano3d.structures import VOID, LabelSpace, MaskProposals, PanopticMap, SceneSample

from .box_detection import as_depth_boxes
from .canonical_scene import boxes_of_instances, canonical_rotation, canonical_scene
from .versions import require

if TYPE_CHECKING:
    from mmdet3d.structures import Det3DDataSample


def scene_points(sample: SceneSample, *, frame: str = 'aligned') -> tuple[Tensor, SceneSample]:
    """Pixels of V views with a known position as points: where they are (N, 3), and the same scene with labels (N,).

    Positions are those of `gt_reconstruction`, else of `pred_reconstruction`, in the axes of mmdet3d's depth
    coordinates, with the first camera at the origin; lengths as in the reconstruction. Pixels follow row by row, view
    by view.

    Args:
        sample: of views.
        frame: 'aligned' or 'first_camera', see `canonical_rotation`.

    Raises:
        ValueError: if the sample has neither reconstruction.
    """
    geometry = sample.get('gt_reconstruction', sample.get('pred_reconstruction'))
    if geometry is None:
        raise ValueError(
            'expected `gt_reconstruction` or `pred_reconstruction` in the sample to make points, found none'
        )
    rotation = canonical_rotation(sample, frame=frame).to(geometry.points)
    scene = canonical_scene(geometry, rotation=rotation, unit='metres')
    result = SceneSample(metainfo=dict(sample.metainfo_items()))
    for name in ('gt_panoptic', 'pred_panoptic'):
        if name in sample:
            result.set_field(sample.get(name)[scene.valid], name)
    if 'pred_segments' in sample:
        result.set_field(sample.pred_segments, 'pred_segments')
    if 'pred_proposals' in sample:
        proposals = sample.pred_proposals
        result.pred_proposals = MaskProposals(proposals.masks[:, scene.valid], proposals.category, proposals.score)
    return scene.points[scene.valid], result


def to_det3d(sample: SceneSample, label_space: LabelSpace, *, points: Tensor | None = None) -> Det3DDataSample:
    """A scene of labelled points as mmdet3d's sample.

    `gt_panoptic` becomes `gt_pts_seg` and `eval_ann_info`; with `points` also `gt_instances_3d`, axis-aligned boxes
    around the points of each instance, labelled by category index. `pred_panoptic` and `pred_segments` become
    `pred_pts_seg`: `pts_semantic_mask` and `pts_instance_mask` (N,), and of each of S segments, stuff too,
    `instance_labels`, `instance_scores` and `instance_ids` (S,). Meta information is kept.

    Args:
        sample: with labels of points, see `scene_points`.
        label_space: of the labels.
        points: (N, 3), in depth coordinates.

    Raises:
        ImportError: if mmdet3d is missing or of an unsupported version.
        ValueError: if the labels are not of points, or of another number of points than `points`, or `pred_segments`
            does not list the segments of `pred_panoptic`.
    """
    require('mmdet3d')
    from mmdet3d.structures import Det3DDataSample, PointData
    from mmengine.structures import InstanceData

    result = Det3DDataSample(metainfo=dict(sample.metainfo_items()))
    if 'gt_panoptic' in sample:
        truth = _of_points(sample.gt_panoptic, 'gt_panoptic', points)
        masks = {'pts_semantic_mask': semantic_mask(truth, label_space), 'pts_instance_mask': truth.instance}
        result.gt_pts_seg = PointData(**masks)
        result.eval_ann_info = {name: mask.cpu().numpy() for name, mask in masks.items()}
        if points is not None:
            everywhere = torch.ones_like(truth.category, dtype=torch.bool)
            boxes, labels = boxes_of_instances(points, everywhere, truth.category, truth.instance, min_points=1)
            result.gt_instances_3d = InstanceData(bboxes_3d=as_depth_boxes(boxes), labels_3d=labels)
    if 'pred_panoptic' in sample:
        found = _of_points(sample.pred_panoptic, 'pred_panoptic', points)
        segments = scored_segments(sample)
        result.pred_pts_seg = PointData(
            pts_semantic_mask=semantic_mask(found, label_space),
            pts_instance_mask=segments.index,
            instance_labels=segments.category,
            instance_scores=segments.score,
            instance_ids=torch.tensor([segment['instance'] for segment in sample.pred_segments], dtype=torch.int64),
        )
    return result


def from_det3d(sample: Det3DDataSample, label_space: LabelSpace) -> SceneSample:
    """Labels of points of mmdet3d's sample as a scene; the reverse of `to_det3d`.

    Ground truth is read from `gt_pts_seg`, else from `eval_ann_info`. Ids of stuff are dropped: all of a class is one
    segment. A prediction without `instance_labels` has its ids in `pts_instance_mask`; segments without a score get 1.

    Args:
        sample: with masks of points; classes in the order of the label space.
        label_space: of its labels.

    Raises:
        ValueError: if there are no labels at all.
    """
    result = SceneSample(metainfo={**dict(sample.metainfo_items()), 'label_space': label_space.name})
    truth = sample.get('gt_pts_seg', None)
    for source in (truth, sample.get('eval_ann_info', None)):
        if source is not None and 'pts_semantic_mask' in source and 'gt_panoptic' not in result:
            result.gt_panoptic = _read_ids(source, label_space)
    if 'pred_pts_seg' in sample:
        result.pred_panoptic, scores = _read_prediction(sample.pred_pts_seg, label_space)
        result.set_field(_list_segments(result.pred_panoptic, scores), 'pred_segments')
    if not result.keys():
        raise ValueError('expected `gt_pts_seg`, `eval_ann_info` or `pred_pts_seg` with masks of points, found none')
    return result


def semantic_mask(labels: PanopticMap, label_space: LabelSpace) -> Tensor:
    """Category indices, int64, with void as mmdet3d has it: the number of classes."""
    return torch.where(labels.category < 0, label_space.num_classes, labels.category.long())


def _of_points(labels: PanopticMap, name: str, points: Tensor | None) -> PanopticMap:
    if len(labels.shape) != 1 or (points is not None and points.shape != (*labels.shape, 3)):
        beside = '' if points is None else f' beside `points` {tuple(points.shape)}'
        raise ValueError(
            f'`{name}` must be of points (N,){beside}, got {tuple(labels.shape)}; `scene_points` makes them of views'
        )
    return labels


def _category(semantic: Tensor, label_space: LabelSpace) -> Tensor:
    inside = (semantic >= 0) & (semantic < label_space.num_classes)
    return torch.where(inside, semantic.long(), VOID)


def _things_only(category: Tensor, instance: Tensor, label_space: LabelSpace) -> Tensor:
    """Ids of stuff and void become 0, and so do negative ones."""
    is_thing = torch.cat([~label_space.is_stuff, torch.zeros(1, dtype=torch.bool)]).to(category.device)
    return torch.where(is_thing[category], instance.long().clamp_min(0), 0)


def _read_ids(masks: Mapping[str, Any], label_space: LabelSpace) -> PanopticMap:
    category = _category(torch.as_tensor(masks['pts_semantic_mask']), label_space)
    instance = masks['pts_instance_mask'] if 'pts_instance_mask' in masks else torch.zeros_like(category)
    return PanopticMap(category, _things_only(category, torch.as_tensor(instance), label_space))


def _read_prediction(
    masks: Mapping[str, Any], label_space: LabelSpace
) -> tuple[PanopticMap, dict[tuple[int, int], float]]:
    """The labels, and scores by category and instance."""
    if 'instance_labels' not in masks:
        return _read_ids(masks, label_space), {}
    index = torch.as_tensor(masks['pts_instance_mask']).long()
    labels = _category(torch.as_tensor(masks['instance_labels']), label_space)
    ids = torch.as_tensor(masks['instance_ids']) if 'instance_ids' in masks else torch.arange(1, len(labels) + 1)
    ids = _things_only(labels, ids, label_space)
    scores = {
        pair: float(score)
        for pair, score in zip(zip(labels.tolist(), ids.tolist(), strict=True), masks['instance_scores'], strict=True)
    }
    if 'pts_semantic_mask' in masks:
        rest = _category(torch.as_tensor(masks['pts_semantic_mask']), label_space)
    else:
        rest = torch.full_like(index, VOID)
    known = index >= 0
    place = torch.where(known, index, len(labels))
    category = torch.where(known, torch.cat([labels, labels.new_zeros(1)])[place], rest)
    return PanopticMap(category, torch.cat([ids, ids.new_zeros(1)])[place]), scores


def _list_segments(labels: PanopticMap, scores: Mapping[tuple[int, int], float]) -> list[dict[str, int | float]]:
    pairs = torch.stack([labels.category, labels.instance]).unique(dim=1).T.tolist()
    return [
        {'instance': instance, 'category': category, 'score': scores.get((category, instance), 1.0)}
        for category, instance in pairs
        if category >= 0
    ]
