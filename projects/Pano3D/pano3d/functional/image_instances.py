"""Match the instances of one view by COCO's rules, through pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .average_precision import InstanceMatches, check_proposals
from .segments import segments_of

COCO_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())


def image_instance_matches(
    *,
    masks: Tensor,
    category: Tensor,
    score: Tensor,
    gt_category: Tensor,
    gt_instance: Tensor,
    is_stuff: Tensor,
    void_is_crowd: bool = True,
    max_masks: int = 100,
) -> InstanceMatches:
    """Match the masks of one view with its instances, by decreasing score, at IoU 0.5, 0.55, ..., 0.95.

    Masks of no thing class are dropped. There are no area ranges.

    Args:
        masks: (K, H, W) bool.
        category: (K,) integer, -1 = none.
        score: (K,) floating, finite.
        gt_category: (H, W) integer, -1 = void.
        gt_instance: (H, W) integer, >= 0.
        is_stuff: (C,) bool.
        void_is_crowd: excuse a mask whose share on void ground truth reaches the threshold: void is a crowd region of
            every class. Otherwise void is background.
        max_masks: of each class, the ones with the highest scores.

    Raises:
        ValueError: if shapes do not fit, a category is outside the label space, or a score is not finite.
    """
    if gt_category.ndim != 2:
        raise ValueError(f'`gt_category` must have shape (H, W), got {tuple(gt_category.shape)}')
    check_proposals(masks, category, score, gt_category, gt_instance, is_stuff)
    is_thing = torch.cat([~is_stuff, is_stuff.new_zeros(1)])  # the last entry answers for void, -1
    things = torch.where(is_thing[gt_category], gt_category, -1)
    segments = segments_of(*(label.long()[None, None] for label in (things, gt_instance)))
    gt_class, index = segments.category, segments.index[0, 0]
    kept = (is_thing[category] & masks.flatten(1).any(1)).nonzero()[:, 0].tolist()
    found = _annotations([masks[k] for k in kept], category[kept].tolist())
    for annotation, value in zip(found, score[kept].tolist(), strict=True):
        annotation['score'] = value
    truth = _annotations([index == i for i in range(len(gt_class))], gt_class.tolist())
    void = gt_category < 0
    if void_is_crowd and void.any():
        classes = category[kept].unique().tolist()
        truth += _annotations([void] * len(classes), classes, first_id=len(truth) + 1, iscrowd=1)
    results = _evaluate(truth, found, gt_category.shape, max_masks)
    return _collect(results, torch.bincount(gt_class.cpu(), minlength=len(is_stuff)))


def _annotations(
    masks: list[Tensor], classes: list[int], *, first_id: int = 1, iscrowd: int = 0
) -> list[dict[str, Any]]:
    from pycocotools import mask as coco_mask

    codes = [coco_mask.encode(np.asfortranarray(mask.cpu().numpy().astype(np.uint8))) for mask in masks]
    return [
        {
            'id': first_id + i,
            'image_id': 0,
            'category_id': label,
            'segmentation': code,
            'area': float(coco_mask.area(code)),
            'iscrowd': iscrowd,
        }
        for i, (label, code) in enumerate(zip(classes, codes, strict=True))
    ]


def _evaluate(
    truth: list[dict[str, Any]], found: list[dict[str, Any]], size: Sequence[int], max_masks: int
) -> list[dict[str, Any]]:
    """What pycocotools says of each class that has an annotation."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    classes = sorted({annotation['category_id'] for annotation in truth + found})
    with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress
        indexed = []
        for annotations in (truth, found):
            indexed.append(COCO())
            indexed[-1].dataset = {
                'images': [{'id': 0, 'height': size[0], 'width': size[1]}],
                'categories': [{'id': c} for c in classes],
                'annotations': annotations,
            }
            indexed[-1].createIndex()
        evaluator = COCOeval(*indexed, 'segm')
        evaluator.params.iouThrs = np.array(COCO_THRESHOLDS)
        evaluator.params.maxDets = [max_masks]
        evaluator.params.areaRng, evaluator.params.areaRngLbl = [[0, float('inf')]], ['all']
        evaluator.evaluate()
    return [result for result in evaluator.evalImgs if result is not None]


def _collect(results: list[dict[str, Any]], instances: Tensor) -> InstanceMatches:
    """The matches that the results tell of; `instances` (C,) are those of the view."""
    empty = np.zeros((len(COCO_THRESHOLDS), 0), bool)
    matched, excused = (
        torch.from_numpy(np.concatenate([empty, *(result[name] > 0 for result in results)], axis=1).T.copy())
        for name in ('dtMatches', 'dtIgnore')
    )
    category = torch.tensor([r['category_id'] for r in results for _ in r['dtScores']], dtype=torch.int64)
    right = matched & ~excused
    missed = instances[:, None].repeat(1, len(COCO_THRESHOLDS)).index_add_(0, category, -right.long())
    return InstanceMatches(
        category=category,
        score=torch.tensor([value for r in results for value in r['dtScores']], dtype=torch.float64),
        true_positives=right.to(torch.uint8),
        false_positives=(~matched & ~excused).to(torch.uint8),
        missed=missed,
        instances=instances,
    )
