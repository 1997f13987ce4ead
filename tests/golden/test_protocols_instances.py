"""Protocols on points, proposals and voxels against the numbers of public evaluators.

The same tests run on a small set that is shipped (tests/data/eval_instances) and on the folder given as --golden-root.
In the files class 0 is void and the classes count from 1; the package counts from 0 with void -1.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator

from pano3d.evaluation import PointInstanceMetric, PointPanopticMetric, PointSemanticMetric
from pano3d.evaluation.point_instance_metric import class_agnostic_matches, instance_scores
from pano3d.evaluation.voxel_metric import mean_voxel_iou
from pano3d.functional.average_precision import (
    SCANNET_THRESHOLDS,
    InstanceMatches,
    average_precision,
    point_instance_matches,
)
from pano3d.functional.confusion import SemanticCounts, class_iou, semantic_counts
from pano3d.functional.panoptic_quality import panoptic_counts, panoptic_quality, point_panoptic_counts
from pano3d.functional.voxels import occupancy_iou, voxel_counts
from pano3d.structures import LabelSpace, MaskProposals, PanopticMap, SceneSample

SHIPPED = Path(__file__).parent.parent / 'data' / 'eval_instances'
SHIPPED_ELSEWHERE = SHIPPED.parent / 'eval'

Scene = dict[str, np.ndarray]


class InstanceSet:
    """A folder with expected.json and the arrays it speaks of."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.loaded: dict[str, dict[str, Scene]] = {}
        expected = json.loads((root / 'expected.json').read_text())
        self.protocols = expected['protocols']
        ids = sorted(int(i) for i in expected['classes'])
        assert ids == list(range(1, len(ids) + 1))
        self.label_space = LabelSpace(
            name='golden',
            names=tuple(expected['classes'][str(i)] for i in ids),
            source_ids=tuple(ids),
            source_key='id',
            stuff=frozenset(expected['classes'][str(i)] for i in expected['stuff']),
        )

    @property
    def is_stuff(self) -> torch.Tensor:
        return self.label_space.is_stuff

    def part(self, protocol: str, part: str) -> dict[str, Any]:
        """Numbers by unit (all scenes together, a scene, an edge case)."""
        if self.root == SHIPPED and part not in self.protocols[protocol]:
            pytest.skip(f'{part} of {protocol} is not shipped; give --golden-root DIR')
        numbers = self.protocols[protocol][part]
        return {'main': numbers} if part == 'main' else numbers

    def scenes(self, file: str) -> dict[str, Scene]:
        """Arrays by scene (p0_name) or edge case (case__name)."""
        if file in self.loaded:
            return self.loaded[file]
        path = self.root / file
        if self.root == SHIPPED and not path.exists():
            path = SHIPPED_ELSEWHERE / file
        scenes = self.loaded[file] = {}
        with np.load(path) as arrays:
            for key in arrays:
                scene, name = key.split('__' if '__' in key else '_', 1)
                scenes.setdefault(scene, {})[name] = arrays[key]
        return scenes

    def proposal_units(self, part: str) -> dict[str, list[Scene]]:
        """The scenes of every unit, points and proposals together."""
        if part == 'edge':
            cases = self.scenes('proposals_edge.npz')
            return {
                name: [
                    {key.partition('_')[2]: array for key, array in case.items() if key.startswith(f'{j}_')}
                    for j in range(int(case['num_scenes']))
                ]
                for name, case in cases.items()
            }
        points, proposals = self.scenes('points.npz'), self.scenes('proposals.npz')
        scenes = {name: [{**points[name], **proposals[name]}] for name in points}
        return {'main': [scene for [scene] in scenes.values()]} if part == 'main' else scenes


@pytest.fixture(scope='module', params=['shipped', 'golden'])
def instance_set(request: pytest.FixtureRequest) -> InstanceSet:
    return InstanceSet(SHIPPED if request.param == 'shipped' else request.getfixturevalue('protocol_values'))


def cases(*protocols_and_parts: tuple[str, str]) -> pytest.MarkDecorator:
    ids = [f'protocol-{protocol}-{part}' for protocol, part in protocols_and_parts]
    return pytest.mark.parametrize(('protocol', 'part'), protocols_and_parts, ids=ids)


def labels(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.int64))


def close(found: float, expected: float | None, where: str, tolerance: float = 1e-9) -> int:
    """Compare one number; None: undefined."""
    good = math.isnan(found) if expected is None else math.isclose(found, expected, rel_tol=0, abs_tol=tolerance)
    assert good, f'{where}: {found} instead of {expected}'
    return 1


def evaluate(metric: Any, samples: list[SceneSample]) -> dict[str, float]:
    """As the runner does: one sample after the other through mmengine's Evaluator."""
    evaluator = Evaluator([metric])
    for sample in samples:
        evaluator.process([sample])
    return evaluator.evaluate(len(samples))


def point_sample(name: str, scene: Scene) -> SceneSample:
    sample = SceneSample(metainfo={'scene_id': name, 'label_space': 'golden'})
    sample.gt_panoptic = PanopticMap(labels(scene['gt_sem']) - 1, labels(scene['gt_inst']))
    if 'pred_sem' in scene:
        sample.pred_panoptic = PanopticMap(labels(scene['pred_sem']) - 1, labels(scene['pred_inst']))
    if 'masks' in scene:
        sample.pred_proposals = proposals_of(scene)
    return sample


# --------------------------------------------------------------------------------------------------- average precision


def proposals_of(scene: Scene) -> MaskProposals:
    masks = np.unpackbits(scene['masks'], axis=1, count=len(scene['gt_sem'])).astype(bool)
    return MaskProposals(torch.from_numpy(masks), labels(scene['labels']) - 1, torch.from_numpy(scene['scores']))


def painted(proposals: MaskProposals) -> MaskProposals:
    """The masks in order of rising score, each over the earlier ones."""
    owner = torch.full(proposals.masks.shape[1:], -1)
    for k in proposals.score.argsort(stable=True).tolist():
        owner[proposals.masks[k]] = k
    return MaskProposals(owner == torch.arange(len(proposals.score))[:, None], proposals.category, proposals.score)


def class_aware(scene: Scene, is_stuff: torch.Tensor, *, min_points: int = 100, paint: bool = False) -> InstanceMatches:
    proposals = painted(proposals_of(scene)) if paint else proposals_of(scene)
    return point_instance_matches(
        masks=proposals.masks,
        category=proposals.category,
        score=proposals.score,
        gt_category=labels(scene['gt_sem']) - 1,
        gt_instance=labels(scene['gt_inst']),
        is_stuff=is_stuff,
        min_points=min_points,
    )


def class_agnostic(scene: Scene, is_stuff: torch.Tensor, *, background_is_instance: bool = False) -> InstanceMatches:
    gt = PanopticMap(labels(scene['gt_sem']) - 1, labels(scene['gt_inst']))
    return class_agnostic_matches(proposals_of(scene), gt, is_stuff, background_is_instance=background_is_instance)


# Evaluator -> how we match by its rules.
MATCHING: dict[str, dict[str, Callable[..., InstanceMatches]]] = {
    'ap_points': {
        'scannet_official': class_aware,
        'scannetpp_toolkit': class_aware,
        'mmdet3d_scannet_eval': class_aware,
        'oneformer3d': class_aware,
        'oneformer3d_UnifiedSegMetric': class_aware,
        'mmdet3d_instance_seg_eval_nonoverlapping': partial(class_aware, paint=True),
    },
    'ap_points_class_agnostic': {
        'scannet_official': class_agnostic,
        'mmdet3d_scannet_eval': class_agnostic,
        'maskclustering_no_class': partial(class_agnostic, background_is_instance=True),
    },
}


def matching(protocol: str, evaluator: str) -> Callable[..., InstanceMatches]:
    smallest = re.fullmatch(r'mmdet3d_scannet_eval_min_region_(\d+)', evaluator)
    return partial(class_aware, min_points=int(smallest[1])) if smallest else MATCHING[protocol][evaluator]


NOT_OURS = {'prec50', 'rec50', 'num_gt_instances_formed'}


def check_precision(values: torch.Tensor, expected: dict[str, Any], where: str) -> int:
    """Compare every number of `expected` with AP (C, T); returns how many."""
    compared = 0
    found = {key.lower(): value for key, value in instance_scores(values).items()}
    for key, value in expected.items():
        if key == 'overlaps':
            assert value == list(SCANNET_THRESHOLDS), where
        elif key == 'per_class':
            for c, numbers in value.items():
                row = values if len(values) == 1 else values[int(c) - 1 : int(c)]
                compared += check_precision(row, numbers, f'{where}, class {c}')
        elif key == 'ap_per_class_and_overlap':
            for c, numbers in value.items():
                row = values[0 if len(values) == 1 else int(c) - 1].tolist()
                compared += sum(close(f, e, f'{where}, class {c}') for f, e in zip(row, numbers, strict=True))
        elif key not in NOT_OURS:
            compared += close(found[key], value, f'{where}, {key}')
    return compared


@cases(
    ('ap_points', 'main'),
    ('ap_points', 'per_scene'),
    ('ap_points', 'edge'),
    ('ap_points_class_agnostic', 'main'),
    ('ap_points_class_agnostic', 'per_scene'),
    ('ap_points_class_agnostic', 'edge'),
)
def test_average_precision(instance_set: InstanceSet, protocol: str, part: str) -> None:
    units = instance_set.proposal_units(part)
    compared = 0
    for unit, entries in instance_set.part(protocol, part).items():
        for evaluator, expected in entries.items():
            match = matching(protocol, evaluator)
            matches = reduce(add, [match(scene, instance_set.is_stuff) for scene in units[unit]])
            if isinstance(expected, str):  # the benchmark's script stops where all masks of a class are excused
                values = average_precision(matches, all_excused=math.nan)
                assert values[matches.instances > 0].isnan().any(), f'{unit}, {evaluator}'
            else:
                compared += check_precision(average_precision(matches), expected, f'{unit}, {evaluator}')
    assert compared


@cases(('ap_points', 'main'), ('ap_points_class_agnostic', 'main'))
def test_instance_metric(instance_set: InstanceSet, protocol: str, part: str) -> None:
    scenes = instance_set.proposal_units(part)['main']
    samples = [point_sample(str(i), scene) for i, scene in enumerate(scenes)]
    agnostic = protocol != 'ap_points'
    readings = {'scannet_official': ('', {})}
    if agnostic:
        readings['maskclustering_no_class'] = ('_maskclustering', {'rules': 'maskclustering'})
    else:
        readings['mmdet3d_scannet_eval_min_region_1'] = ('_min1', {'min_points': 1})
    for evaluator, (suffix, arguments) in readings.items():
        metric = PointInstanceMetric(label_space=instance_set.label_space, class_agnostic=agnostic, **arguments)
        metrics = evaluate(metric, samples)
        expected = instance_set.part(protocol, part)['main'][evaluator]
        for name in ('AP', 'AP50', 'AP25'):
            close(metrics[f'golden/{protocol}{suffix}/gt_points/{name}'], expected[name.lower()], evaluator)


# ---------------------------------------------------------------------------------------------------- panoptic quality


def count_points(scene: Scene, counting: Callable[..., Any], is_stuff: torch.Tensor) -> Any:
    return counting(
        predicted_category=labels(scene['pred_sem']) - 1,
        predicted_instance=labels(scene['pred_inst']),
        gt_category=labels(scene['gt_sem']) - 1,
        gt_instance=labels(scene['gt_inst']),
        is_stuff=is_stuff,
    )


def count_labelled(scene: Scene, num_classes: int) -> SemanticCounts:
    return semantic_counts(
        predicted=labels(scene['pred_sem']) - 1, gt=labels(scene['gt_sem']) - 1, num_classes=num_classes
    )


# Evaluator -> how we count by its rules, and how close we come; torchmetrics divides in float32.
COUNTING: dict[str, tuple[Callable[..., Any], float]] = {
    'oneformer3d_UnifiedSegMetric': (point_panoptic_counts, 1e-9),
    'torchmetrics_on_points': (partial(panoptic_counts, excuse_predicted_void=True), 1e-6),
    'panopticapi_on_points': (panoptic_counts, 1e-9),
}


def counting_of(evaluator: str) -> tuple[Callable[..., Any], float]:
    smallest = re.fullmatch(r'(?:mmdet3d|mmdet3d_stuff_not_merged|semantic_kitti_api)_min(\d+)', evaluator)
    return (partial(point_panoptic_counts, min_points=int(smallest[1])), 1e-9) if smallest else COUNTING[evaluator]


def point_panoptic_entry(counts: Any, semantic: SemanticCounts, is_stuff: torch.Tensor) -> dict[str, Any]:
    """Scores in the layout of the file."""
    scores, iou = panoptic_quality(counts), class_iou(semantic)
    filled = scores.nan_to_num(0.0)
    groups = {'all': torch.ones_like(is_stuff), 'things': ~is_stuff, 'stuff': is_stuff}
    entry: dict[str, Any] = {}
    for name, members in groups.items():
        means = scores[:, members].nanmean(1).tolist()
        entry[name] = dict(zip(('pq', 'sq', 'rq'), means, strict=True)) | {'n': int(counts.listed[members].sum())}
        for key, mean in zip(('pq', 'sq', 'rq'), filled[:, members].mean(1).tolist(), strict=True):
            entry[f'{key}_{name}'] = mean
    seen = counts.true_positives + counts.false_positives + counts.false_negatives > 0
    return entry | {
        'pq': entry['pq_all'],
        'sq_mean': entry['sq_all'],
        'rq_mean': entry['rq_all'],
        f'mean_over_all_{len(is_stuff)}': {key: entry[f'{key}_all'] for key in ('pq', 'sq', 'rq')},
        'pq_dagger': float(torch.where(is_stuff, iou, filled[0]).nan_to_num(0.0).mean()),
        'miou': float(iou.nan_to_num(0.0).mean()),
        'mean_over_seen_classes': {'pq': float(scores[0, seen].mean()), 'n': int(seen.sum())},
        'per_class': {
            str(c + 1): {
                'tp': int(counts.true_positives[c]),
                'fp': int(counts.false_positives[c]),
                'fn': int(counts.false_negatives[c]),
                'iou_sum': float(counts.iou_sum[c]),
                'iou': float(iou[c].nan_to_num(0.0)),
                **dict(zip(('pq', 'sq', 'rq'), filled[:, c].tolist(), strict=True)),
            }
            for c in range(len(is_stuff))
        },
    }


def check_panoptic(found: Any, expected: Any, where: str, tolerance: float) -> int:
    """Compare every number; returns how many."""
    if isinstance(expected, dict):
        return sum(
            check_panoptic(found[key], value, f'{where}, {key}', 0 if key in ('tp', 'fp', 'fn', 'n') else tolerance)
            for key, value in expected.items()
        )
    return close(found, expected, where, tolerance)


def panoptic_scenes(instance_set: InstanceSet, part: str, unit: str) -> list[Scene]:
    scenes = instance_set.scenes('views_edge.npz' if part == 'edge' else 'points.npz')
    if part == 'main':
        return list(scenes.values())
    lifted = re.fullmatch(r'ids_above_id_offset \((\w+), thing ids \+ (\d+)\)', unit)
    if not lifted:
        return [scenes[unit]]
    scene = dict(scenes[lifted[1]])
    for side in ('gt', 'pred'):
        thing = ~np.isin(scene[f'{side}_sem'], [0, *(np.flatnonzero(instance_set.is_stuff.numpy()) + 1)])
        scene[f'{side}_inst'] = scene[f'{side}_inst'].astype(np.int64) + thing * int(lifted[2])
    return [scene]


@cases(('pq_points', 'main'), ('pq_points', 'per_scene'), ('pq_points', 'edge'))
def test_panoptic_counts_of_points(instance_set: InstanceSet, protocol: str, part: str) -> None:
    is_stuff = instance_set.is_stuff
    compared = 0
    for unit, entries in instance_set.part(protocol, part).items():
        scenes = panoptic_scenes(instance_set, part, unit)
        semantic = reduce(add, [count_labelled(scene, len(is_stuff)) for scene in scenes])
        for evaluator, expected in ({'mmdet3d_min1': entries} if part == 'per_scene' else entries).items():
            if isinstance(expected, str):
                continue  # mmdet3d stops at large ids
            counting, tolerance = counting_of(evaluator)
            countable = torch.zeros_like(is_stuff) if 'stuff_not_merged' in evaluator else is_stuff
            counts = reduce(add, [count_points(scene, counting, countable) for scene in scenes])
            found = point_panoptic_entry(counts, semantic, is_stuff)
            compared += check_panoptic(found, expected, f'{unit}, {evaluator}', tolerance)
    assert compared


@cases(('pq_points', 'main'))
def test_panoptic_metric_of_points(instance_set: InstanceSet, protocol: str, part: str) -> None:
    samples = [point_sample(name, scene) for name, scene in instance_set.scenes('points.npz').items()]
    entries = instance_set.part(protocol, part)['main']
    readings = {
        'mmdet3d_min1': ('', {}),
        'mmdet3d_min50': ('_min50', {'min_points': 50}),
        'panopticapi_on_points': ('_coco', {'rules': 'coco'}),
    }
    for evaluator, (suffix, arguments) in readings.items():
        metrics = evaluate(PointPanopticMetric(label_space=instance_set.label_space, **arguments), samples)
        expected = entries[evaluator].get('all', entries[evaluator])
        close(metrics[f'golden/pq_points{suffix}/gt_points/PQ'], expected['pq'], evaluator)
        things = entries[evaluator].get('things', {}).get('pq', entries[evaluator].get('pq_things'))
        close(metrics[f'golden/pq_points{suffix}/gt_points/PQ_things'], things, evaluator)


@cases(('miou_points', 'main'))
def test_semantic_metric_of_points(instance_set: InstanceSet, protocol: str, part: str) -> None:
    samples = [point_sample(name, scene) for name, scene in instance_set.scenes('points.npz').items()]
    metrics = evaluate(PointSemanticMetric(label_space=instance_set.label_space, per_class=True), samples)
    classes = instance_set.label_space.num_classes
    expected = instance_set.part(protocol, part)['main'][f'mmdet3d_{classes + 1}_classes_ignore_{classes}']
    for name in ('mIoU', 'mAcc', 'Acc'):
        close(metrics[f'golden/miou_points/gt_points/{name}'], expected[name.lower()], name)
    for c, iou in expected['per_class_iou'].items():
        name = instance_set.label_space.names[int(c) - 1]
        close(metrics[f'golden/miou_points/gt_points/IoU/{name}'], iou, name)


# -------------------------------------------------------------------------------------------------------------- voxels

VOID_RULES = {'drop_void_points': False, 'drop_void_points_ignore_gt_void_voxels': True}
CLASS_MEANS = {'miou_classes_in_gt': 'gt', 'miou_classes_in_gt_or_pred': 'gt_or_predicted'}


def classes_of_mean(key: str) -> str | None:
    return 'all' if re.fullmatch(r'miou_all_\d+', key) else CLASS_MEANS.get(key)


def count_voxels(scene: Scene, num_classes: int, *, ignore_gt_void_voxels: bool) -> SemanticCounts:
    return voxel_counts(
        predicted_points=torch.from_numpy(scene['pred_xyz']),
        predicted_category=labels(scene['pred_sem']) - 1,
        gt_points=torch.from_numpy(scene['gt_xyz']),
        gt_category=labels(scene['gt_sem']) - 1,
        num_classes=num_classes,
        ignore_gt_void_voxels=ignore_gt_void_voxels,
    )


def check_voxels(counts: SemanticCounts, expected: dict[str, Any], where: str) -> int:
    iou = class_iou(counts, count_gt_void=True)
    predicted = counts.predicted + counts.predicted_on_void
    both = counts.predicted.sum().double()
    compared = 0
    for key, value in expected.items():
        classes = classes_of_mean(key)
        if classes:
            compared += close(float(mean_voxel_iou(counts, classes=classes)), value, f'{where}, {key}')
        elif key == 'occupancy_iou':
            compared += close(float(occupancy_iou(counts)), value, f'{where}, {key}')
        elif key == 'per_class_iou':
            compared += sum(close(float(iou[int(c) - 1]), number, f'{where}, {c}') for c, number in value.items())
        elif key == 'per_class':
            for c, numbers in value.items():
                i = int(c) - 1
                assert int(counts.correct[i]) == numbers['tp'], f'{where}, class {c}'
                assert int(predicted[i] - counts.correct[i]) == numbers['fp'], f'{where}, class {c}'
                assert int(counts.labelled[i] - counts.correct[i]) == numbers['fn'], f'{where}, class {c}'
                compared += close(float(iou[i]), numbers['iou'], f'{where}, class {c}')
        elif key == 'monoscene':  # its mean of the classes has 1e-5 in every denominator
            compared += close(float(both / predicted.sum()), value['precision'], where)
            compared += close(float(both / counts.labelled.sum()), value['recall'], where)
            compared += close(float(occupancy_iou(counts)), value['iou'], where)
        else:
            raise AssertionError(f'{where}: {key} is not compared')
    return compared


@cases(('miou_voxel', 'per_scene'))
def test_voxels(instance_set: InstanceSet, protocol: str, part: str) -> None:
    scenes = instance_set.scenes('voxels.npz')
    num_classes = instance_set.label_space.num_classes
    compared = 0
    for name, entries in instance_set.part(protocol, part).items():
        for rule, ignore in VOID_RULES.items():
            counts = count_voxels(scenes[name], num_classes, ignore_gt_void_voxels=ignore)
            compared += check_voxels(counts, entries[rule], f'{name}, {rule}')
        counts = count_voxels(scenes[name], num_classes, ignore_gt_void_voxels=False)
        sizes = entries['num_voxels']
        assert int(counts.labelled.sum()) == sizes['gt']
        assert int((counts.predicted + counts.predicted_on_void).sum()) == sizes['pred']
        assert int(counts.predicted.sum()) == sizes['both']
        compared += close(float(occupancy_iou(counts)), entries['occupancy_iou_pi3_open3d'], name)
    assert compared


@cases(('miou_voxel', 'main'))
def test_voxels_of_all_scenes(instance_set: InstanceSet, protocol: str, part: str) -> None:
    entries = instance_set.part(protocol, part)['main']
    scenes = instance_set.scenes('voxels.npz').values()
    num_classes = instance_set.label_space.num_classes
    for rule, ignore in VOID_RULES.items():
        states = [count_voxels(scene, num_classes, ignore_gt_void_voxels=ignore) for scene in scenes]
        check_voxels(reduce(add, states), entries[rule]['pooled'], f'{rule}, pooled')
        for key, expected in entries[rule]['mean_over_scenes'].items():
            values = [
                occupancy_iou(counts)
                if key == 'occupancy_iou'
                else mean_voxel_iou(counts, classes=classes_of_mean(key))
                for counts in states
            ]
            close(float(torch.stack(values).nanmean()), expected, f'{rule}, {key}')
