"""Public evaluators, and a plain one, behind one interface: prepared once, then run on the same labels as ours."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rooms import LABEL_SPACE, NUM_CLASSES, NUM_STUFF

from pano3d.evaluation import PointInstanceMetric, ScenePanopticMetric
from pano3d.structures import MaskProposals, PanopticMap

Scores = dict[str, float]
Run = Callable[[], Scores]
Scene = tuple[PanopticMap, PanopticMap]  # ground truth, prediction
Points = tuple[PanopticMap, MaskProposals]

THINGS = range(NUM_STUFF, NUM_CLASSES)
SEGMENT_STRIDE = 32  # more than the classes, so that a segment id tells its class
VOID_SEGMENT = 0
MMDET3D_SCORES = {'AP': 'all_ap', 'AP50': 'all_ap_50%', 'AP25': 'all_ap_25%'}


@dataclass(frozen=True)
class Evaluator:
    """A peer of ours.

    Args:
        name: as printed.
        module: what must be installed.
        prepare: brings labels into its form, as files in an empty folder if it reads files; not timed.
        wanted: how many times our time it should take at least.
        rules: ours that are equal to its, of `ScenePanopticMetric`.
        tolerance: largest difference of scores.
        slow: measured on few scenes.
    """

    name: str
    module: str
    prepare: Callable[[Any, Path], Run]
    wanted: float | None = None
    rules: str = 'coco'
    tolerance: float = 1e-9
    slow: bool = False


def ours(scenes: Sequence[Scene], protocol: str, rules: str) -> Run:
    samples = [
        {'scene_id': str(number), 'gt_panoptic': gt, 'pred_panoptic': predicted}
        for number, (gt, predicted) in enumerate(scenes)
    ]

    def run() -> Scores:
        metric = ScenePanopticMetric(label_space=LABEL_SPACE, protocol=protocol, rules=rules)
        metric.process(None, samples)
        scores = metric.compute_metrics(metric.results)
        return {name: scores[name] for name in ('PQ', 'SQ', 'RQ')}

    return run


def views_of(scenes: Sequence[Scene]) -> list[Scene]:
    """Every view as a scene of its own."""
    return [(gt[view], predicted[view]) for gt, predicted in scenes for view in range(len(gt.category))]


def prepare_plain(scenes: Sequence[Scene], folder: Path) -> Run:
    pairs = [(_segment_ids(gt), _segment_ids(predicted)) for gt, predicted in scenes]
    return lambda: plain_panoptic_quality(pairs)


def plain_panoptic_quality(pairs: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> Scores:
    """COCO's rules, segment by segment."""
    iou_sum, segments, matches = (np.zeros(SEGMENT_STRIDE) for _ in range(3))
    for gt, predicted in pairs:
        gt_size, predicted_size, both = (_sizes(ids) for ids in (gt, predicted, gt << 32 | predicted))
        shared = {divmod(pair, 2**32): count for pair, count in both.items()}
        matched = set()
        for (g, p), overlap in shared.items():
            union = gt_size[g] + predicted_size[p] - overlap - shared.get((VOID_SEGMENT, p), 0)
            if VOID_SEGMENT not in (g, p) and g % SEGMENT_STRIDE == p % SEGMENT_STRIDE and 2 * overlap > union:
                matched.add(p)
                iou_sum[p % SEGMENT_STRIDE] += overlap / union
                matches[p % SEGMENT_STRIDE] += 1
        for g in gt_size.keys() - {VOID_SEGMENT}:
            segments[g % SEGMENT_STRIDE] += 0.5
        for p in predicted_size.keys() - {VOID_SEGMENT}:
            excused = p not in matched and 2 * shared.get((VOID_SEGMENT, p), 0) > predicted_size[p]
            segments[p % SEGMENT_STRIDE] += 0 if excused else 0.5
    listed = segments > 0
    iou_sum, segments, matches = iou_sum[listed], segments[listed], matches[listed]
    return {
        'PQ': float(np.mean(iou_sum / segments)),
        'SQ': float(np.mean(iou_sum / np.maximum(matches, 1))),
        'RQ': float(np.mean(matches / segments)),
    }


def prepare_panopticapi(scenes: Sequence[Scene], folder: Path) -> Run:
    from panopticapi.evaluation import pq_compute_single_core

    gt, predicted = _write_coco(scenes, folder)
    categories = {category['id']: category for category in gt['categories']}
    annotations = list(zip(gt['annotations'], predicted['annotations'], strict=True))

    def run() -> Scores:
        with contextlib.redirect_stdout(io.StringIO()):
            counts = pq_compute_single_core(0, annotations, folder / 'gt', folder / 'predicted', categories)
        scores, _ = counts.pq_average(categories, isthing=None)
        return {name: float(scores[name.lower()]) for name in ('PQ', 'SQ', 'RQ')}

    return run


def prepare_hotcoco(scenes: Sequence[Scene], folder: Path) -> Run:
    from hotcoco.panoptic import PanopticEval

    _write_coco(scenes, folder)

    def run() -> Scores:
        evaluation = PanopticEval(folder / 'gt.json', folder / 'predicted.json')
        evaluation.evaluate()
        scores = evaluation.results()['All']
        return {name: scores[name.lower()] for name in ('PQ', 'SQ', 'RQ')}

    return run


def prepare_torchmetrics(scenes: Sequence[Scene], folder: Path) -> Run:
    from torchmetrics.detection import PanopticQuality

    stacked = [
        [torch.stack([side.category, side.instance], dim=-1).reshape(1, -1, 2) for side in scene] for scene in scenes
    ]

    def run() -> Scores:
        metric = PanopticQuality(
            things=set(THINGS), stuffs=set(range(NUM_STUFF)), allow_unknown_preds_category=True, return_sq_and_rq=True
        )
        for gt, predicted in stacked:
            metric.update(predicted, gt)
        return dict(zip(('PQ', 'SQ', 'RQ'), metric.compute().tolist(), strict=True))

    return run


def ours_points(points: Points) -> Run:
    gt, proposals = points
    sample = {'scene_id': '0', 'gt_panoptic': gt, 'pred_proposals': proposals}

    def run() -> Scores:
        metric = PointInstanceMetric(label_space=LABEL_SPACE)
        metric.process(None, [sample])
        return metric.compute_metrics(metric.results)

    return run


def prepare_mmdet3d(points: Points, folder: Path) -> Run:
    """What is under `instance_seg_eval`, which itself takes no masks that overlap."""
    from mmdet3d.evaluation.functional.scannet_utils.evaluate_semantic_instance import scannet_eval

    gt, proposals = points
    ids = torch.where(gt.instance > 0, 1000 * (gt.category + 1) + gt.instance, 0).numpy()
    names = {c + 1: str(c) for c in THINGS}
    predicted = {
        f'0_{k}': {'mask': mask, 'label_id': label + 1, 'conf': score}
        for k, (mask, label, score) in enumerate(
            zip(proposals.masks.numpy(), proposals.category.tolist(), proposals.score.tolist(), strict=True)
        )
    }

    def run() -> Scores:
        scores = scannet_eval([predicted], [ids], None, tuple(names), tuple(names.values()), names)
        return {name: float(scores[key]) for name, key in MMDET3D_SCORES.items()}

    return run


def prepare_mmdet3d_disjoint(points: Points, folder: Path) -> Run:
    """`instance_seg_eval` itself; the masks must not overlap."""
    from mmdet3d.evaluation.functional.instance_seg_eval import instance_seg_eval

    gt, proposals = points
    number = torch.where(proposals.masks.any(0), proposals.masks.byte().argmax(0), -1)
    is_thing = gt.category >= NUM_STUFF
    arguments = dict(
        gt_semantic_masks=[torch.where(is_thing, gt.category - NUM_STUFF, len(THINGS))],
        gt_instance_masks=[gt.instance],
        pred_instance_masks=[number],
        pred_instance_labels=[proposals.category - NUM_STUFF],
        pred_instance_scores=[proposals.score],
        valid_class_ids=tuple(c + 1 for c in THINGS),
        class_labels=tuple(str(c) for c in THINGS),
        logger='silent',
    )

    def run() -> Scores:
        scores = instance_seg_eval(**arguments)
        return {name: float(scores[key]) for name, key in MMDET3D_SCORES.items()}

    return run


PANOPTIC = (
    Evaluator('plain NumPy', 'numpy', prepare_plain),
    Evaluator('panopticapi', 'panopticapi', prepare_panopticapi, wanted=20),
    Evaluator('hotcoco', 'hotcoco', prepare_hotcoco, wanted=0.5),
    Evaluator('torchmetrics', 'torchmetrics', prepare_torchmetrics, 100, 'torchmetrics', tolerance=1e-6, slow=True),
)
OVERLAPPING = (Evaluator('mmdet3d scannet_eval', 'mmdet3d', prepare_mmdet3d, wanted=1),)
DISJOINT = (Evaluator('mmdet3d instance_seg_eval', 'mmdet3d', prepare_mmdet3d_disjoint, wanted=1),)


def missing(module: str) -> str | None:
    """Why an evaluator cannot run, or None."""
    if find_spec(module) is None:
        return f'{module} is not installed'
    if module == 'mmdet3d' and not hasattr(np, 'in1d'):
        return f'mmdet3d needs numpy < 2.4, found {np.__version__}'
    return None


def _segment_ids(labels: PanopticMap) -> NDArray[np.int64]:
    """One id per segment, void 0; all views of a scene below each other, (V H, W)."""
    category, instance = labels.category.numpy(), labels.instance.numpy()
    ids = np.where(category >= NUM_STUFF, instance * SEGMENT_STRIDE, 0) + category + 1
    return ids.reshape(-1, ids.shape[-1])


def _sizes(ids: NDArray[np.int64]) -> dict[int, int]:
    values, counts = np.unique(ids, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _write_coco(scenes: Sequence[Scene], folder: Path) -> list[dict]:
    """Ground truth and prediction in COCO's panoptic format: PNG files and JSON documents."""
    documents = []
    for side, name in enumerate(('gt', 'predicted')):
        (folder / name).mkdir(parents=True)
        annotations, images = [], []
        for number, scene in enumerate(scenes):
            ids = _segment_ids(scene[side])
            path = folder / name / f'{number}.png'
            Image.fromarray(np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)).save(path)
            segments = [
                {'id': i, 'category_id': i % SEGMENT_STRIDE, 'iscrowd': 0, 'area': area, 'bbox': [0, 0, 1, 1]}
                for i, area in _sizes(ids).items()
                if i != VOID_SEGMENT
            ]
            annotations.append({'image_id': number, 'file_name': path.name, 'segments_info': segments})
            images.append({'id': number, 'file_name': path.name, 'height': ids.shape[0], 'width': ids.shape[1]})
        categories = [{'id': c + 1, 'name': str(c), 'isthing': int(c in THINGS)} for c in range(NUM_CLASSES)]
        documents.append({'images': images, 'annotations': annotations, 'categories': categories})
        (folder / f'{name}.json').write_text(json.dumps(documents[-1]))
    return documents
