"""Metrics of points, instances of views and the mesh: keys, invariants, merging of states, what they refuse."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator

from pano3d.evaluation import (
    ImageInstanceMetric,
    PointInstanceMetric,
    PointPanopticMetric,
    PointSemanticMetric,
    SemanticIoUMetric,
    UniteMeshMetric,
    VoxelMetric,
    mesh_labels,
)
from pano3d.evaluation.mesh_labels import vertex_sample
from pano3d.evaluation.scene_results import measure_scene, summarize_scenes
from pano3d.evaluation.semantic_iou_metric import class_probabilities
from pano3d.functional.geometry import transform_points
from pano3d.registry import METRICS
from pano3d.structures import LabelSpace, MaskProposals, PanopticMap, Reconstruction, SceneSample

SPACE = LabelSpace(
    name='rooms',
    names=('wall', 'floor', 'chair', 'table'),
    source_ids=(1, 2, 3, 4),
    source_key='id',
    stuff=frozenset({'wall', 'floor'}),
)
VIEWS, HEIGHT, WIDTH = 3, 16, 20
CATEGORIES = {1: 0, 2: 1, 3: 2, 4: 2, 5: 3, 6: -1}  # of the instance ids


def copy_with(sample: SceneSample, **changed: Any) -> SceneSample:
    other = SceneSample(metainfo=dict(sample.metainfo_items()))
    for name, value in (dict(sample.items()) | changed).items():
        other.set_field(value, name)
    return other


def labels_of(instance: torch.Tensor) -> PanopticMap:
    """Stuff and void have instance 0."""
    category = torch.tensor([-1, *CATEGORIES.values()])[instance]
    return PanopticMap(category, torch.where(category > 1, instance, 0))


def listed(panoptic: PanopticMap, generator: torch.Generator) -> list[dict[str, int | float]]:
    """Segments with scores that differ."""
    pairs = torch.stack([panoptic.category, panoptic.instance]).flatten(1).unique(dim=1).T.tolist()
    score = torch.randperm(50, generator=generator).tolist()
    return [{'category': c, 'instance': i, 'score': 0.5 + score.pop() / 100} for c, i in pairs if c >= 0]


def with_prediction(sample: SceneSample, instance: torch.Tensor, share_wrong: float, seed: int) -> SceneSample:
    """Labels of the instances; the prediction is wrong in a share of the elements and has ids of its own."""
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.rand(instance.shape, generator=generator) < share_wrong
    guess = torch.randint(0, 7, instance.shape, generator=generator)
    found = labels_of(torch.where(wrong, guess, instance))
    sample.gt_panoptic = labels_of(instance)
    sample.pred_panoptic = PanopticMap(found.category, torch.where(found.instance > 0, found.instance + 10, 0))
    sample.set_field(listed(sample.pred_panoptic, generator), 'pred_segments')
    return sample


def make_points(seed: int, *, share_wrong: float = 0.2) -> SceneSample:
    instance = torch.arange(1400) // 200
    sample = SceneSample(metainfo={'scene_id': f'scene{seed:04d}', 'label_space': 'rooms'})
    return with_prediction(sample, instance, share_wrong, seed)


def make_views(seed: int, folder: Path, *, share_wrong: float = 0.2) -> SceneSample:
    """Views of slanted surfaces, and a mesh with a vertex at every pixel."""
    generator = torch.Generator().manual_seed(100 + seed)
    rows, columns = torch.arange(HEIGHT)[:, None], torch.arange(WIDTH)
    depth = 2 + 0.02 * rows + 0.01 * columns + 0.001 * torch.rand(VIEWS, HEIGHT, WIDTH, generator=generator).double()
    depth[:, :2, :2] = 0
    poses = torch.eye(4).double().repeat(VIEWS, 1, 1)
    poses[:, 0, 3] = torch.arange(VIEWS) * 5.0
    intrinsics = torch.tensor([[80.0, 0, 10], [0, 80, 8], [0, 0, 1]]).double().expand(VIEWS, 3, 3)
    truth = Reconstruction.from_depth(depth, intrinsics, poses)
    instance = (torch.zeros(VIEWS, 1, 1) + rows // 4 * 2 + columns // 10).long() % 7

    path = folder / f'mesh{seed}.npz'
    vertices = truth.points[truth.valid].numpy()
    np.savez(path, vertices=vertices, instance=instance[truth.valid].numpy().astype(np.int32))
    meta = {'scene_id': f'scene{seed:04d}', 'label_space': 'rooms', 'mesh_path': str(path)}
    sample = SceneSample(metainfo={**meta, 'instance_categories': CATEGORIES})
    sample.gt_reconstruction = truth
    noise = 0.01 if share_wrong else 0.0
    wrong = depth * (1 + noise * torch.randn(depth.shape, generator=generator).double())
    sample.pred_reconstruction = Reconstruction.from_depth(4 * wrong, intrinsics, scaled(poses, 4.0))
    sample = with_prediction(sample, instance, share_wrong, seed)
    shown = sample.pred_panoptic.category.clamp_min(0)
    sample.pred_semantic = torch.nn.functional.one_hot(shown, 4).movedim(-1, 1).float()
    return sample


def scaled(poses: torch.Tensor, factor: float) -> torch.Tensor:
    poses = poses.clone()
    poses[:, :3, 3] *= factor
    return poses


def point_metrics() -> list[BaseMetric]:
    return [
        PointPanopticMetric(label_space=SPACE, per_class=True),
        PointPanopticMetric(label_space=SPACE, rules='coco'),
        PointSemanticMetric(label_space=SPACE, per_class=True),
        PointInstanceMetric(label_space=SPACE, per_class=True),
        PointInstanceMetric(label_space=SPACE, class_agnostic=True),
        PointInstanceMetric(label_space=SPACE, class_agnostic=True, min_points=20),
    ]


def view_metrics() -> list[BaseMetric]:
    return [
        ImageInstanceMetric(label_space=SPACE, per_class=True),
        ImageInstanceMetric(label_space=SPACE, void_is_crowd=False),
        VoxelMetric(label_space=SPACE),
        UniteMeshMetric(label_space=SPACE, min_vertices=10),
    ]


def evaluate(samples: list[SceneSample], metrics: list[BaseMetric]) -> dict[str, float]:
    evaluator = Evaluator(metrics)
    for sample in samples:
        evaluator.process([sample])
    return evaluator.evaluate(len(samples))


def evaluate_all(seeds: range, folder: Path, **choices: Any) -> dict[str, float]:
    points = evaluate([make_points(seed, **choices) for seed in seeds], point_metrics())
    return points | evaluate([make_views(seed, folder, **choices) for seed in seeds], view_metrics())


def assert_same(left: dict[str, float], right: dict[str, float], tolerance: float = 1e-12) -> None:
    assert left.keys() == right.keys()
    for key, value in left.items():
        assert right[key] == pytest.approx(value, abs=tolerance, nan_ok=True), key


def test_keys_name_label_space_protocol_and_geometry(tmp_path: Path) -> None:
    precision = {'AP', 'AP50', 'AP25'}
    panoptic = {f'{name}{group}' for name in ('PQ', 'SQ', 'RQ') for group in ('', '_things', '_stuff')}
    expected = {f'pq_points{rules}/gt_points/{m}' for rules in ('', '_coco') for m in panoptic}
    expected |= {f'pq_points/gt_points/PQ/{name}' for name in SPACE.names}
    expected |= {f'miou_points/gt_points/{m}' for m in ('mIoU', 'mAcc', 'Acc')}
    expected |= {f'miou_points/gt_points/IoU/{name}' for name in SPACE.names}
    for protocol in ('ap_points', 'ap_points_class_agnostic', 'ap_points_class_agnostic_min20'):
        expected |= {f'{protocol}/gt_points/{m}' for m in precision}
    expected |= {f'ap_points/gt_points/AP/{name}' for name in ('chair', 'table')}
    expected |= {f'{p}/pixels/{m}' for p in ('ap_2d', 'ap_2d_void_background') for m in ('AP', 'AP50', 'AP75')}
    expected |= {f'ap_2d/pixels/AP/{name}' for name in ('chair', 'table')}
    expected |= {f'miou_voxel/own_geometry/{m}' for m in ('mIoU', 'mIoU_pooled', 'occupancy_IoU')}
    for geometry in ('gt_depth', 'own_geometry'):
        expected |= {f'unite_mesh/{geometry}/{m}' for m in ('mIoU', 'mAcc', 'Acc', *precision)}
    assert set(evaluate_all(range(1), tmp_path)) == {f'rooms/{key}' for key in expected}


def test_ground_truth_fed_back_is_exactly_perfect(tmp_path: Path) -> None:
    for key, value in evaluate_all(range(3), tmp_path, share_wrong=0.0).items():
        assert value == 1.0, key


def test_errors_cost_in_every_metric(tmp_path: Path) -> None:
    for key, value in evaluate_all(range(2), tmp_path, share_wrong=0.5).items():
        assert 0 <= value < 1 or key.endswith('AP25'), key


def test_views_points_and_ids_may_be_permuted(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    orders = {'points': torch.randperm(1400, generator=generator), 'views': torch.tensor([2, 0, 1])}
    samples = {'points': [make_points(s) for s in range(2)], 'views': [make_views(s, tmp_path) for s in range(2)]}
    for kind, metrics in (('points', point_metrics), ('views', view_metrics)):
        permuted = []
        for sample in samples[kind]:
            changed = {k: v[orders[kind]] for k, v in sample.items() if k != 'pred_segments'}
            found = changed['pred_panoptic']
            changed['pred_panoptic'] = PanopticMap(
                found.category, torch.where(found.instance > 0, 50 - found.instance, 0)
            )
            segments = [s | {'instance': 50 - s['instance'] if s['instance'] else 0} for s in sample.pred_segments]
            permuted.append(copy_with(sample, **changed, pred_segments=segments[::-1]))
        assert_same(evaluate(permuted, metrics()), evaluate(samples[kind], metrics()))


def test_states_of_two_processes_equal_one_pass(tmp_path: Path) -> None:
    points, views = [make_points(s) for s in range(4)], [make_views(s, tmp_path) for s in range(4)]
    for samples, metrics in ((points, point_metrics), (views, view_metrics)):
        expected = evaluate(samples, metrics())
        merged: dict[str, float] = {}
        for first, second in zip(metrics(), metrics(), strict=True):
            first.process(None, [sample.to_dict() for sample in samples[:3]])
            second.process(None, [sample.to_dict() for sample in samples[3:]])
            first.results = pickle.loads(pickle.dumps(second.results)) + first.results  # as mmengine sends them
            merged |= first.evaluate(4)
        assert_same(merged, expected)


def test_states_are_small(tmp_path: Path) -> None:
    for sample, metrics in ((make_points(0), point_metrics), (make_views(0, tmp_path), view_metrics)):
        for metric in metrics():
            metric.process(None, [sample.to_dict()])
            assert len(metric.results) == 1, 'mmengine drops padded samples by their number'
            assert len(pickle.dumps(metric.results)) < 8192


def test_absent_classes_score_zero_in_points_unless_chosen() -> None:
    sample = make_points(0, share_wrong=0.0)
    chairs = sample.gt_panoptic.category == 2
    only = copy_with(sample, gt_panoptic=sample.gt_panoptic[chairs], pred_panoptic=sample.pred_panoptic[chairs])
    metrics = evaluate([only], point_metrics())
    assert metrics['rooms/pq_points/gt_points/PQ'] == 0.25
    assert metrics['rooms/pq_points_coco/gt_points/PQ'] == 1.0


def test_small_segments_of_points_may_be_left_out() -> None:
    gt = labels_of(torch.tensor([3] * 60 + [4] * 60 + [5] * 60))
    found = gt.instance.clone()
    found[:40], found[40:60] = 7, 8  # 40 of 60 points match, the other 20 are a wrong segment
    sample = SceneSample(metainfo={'scene_id': 'a', 'label_space': 'rooms'})
    sample.gt_panoptic, sample.pred_panoptic = gt, PanopticMap(gt.category, found)
    metrics = [PointPanopticMetric(label_space=SPACE, min_points=size, per_class=True) for size in (20, 21)]
    values = evaluate([sample], metrics)
    assert values['rooms/pq_points_min20/gt_points/PQ/chair'] == pytest.approx((1 + 40 / 60) / 2.5)
    assert values['rooms/pq_points_min21/gt_points/PQ/chair'] == pytest.approx((1 + 40 / 60) / 2)


def test_proposals_may_overlap_and_come_before_segments() -> None:
    sample = make_points(0)
    masks = torch.stack([sample.gt_panoptic.instance == i for i in (3, 4, 5)] + [sample.gt_panoptic.instance > 3])
    score = torch.tensor([0.9, 0.8, 0.7, 0.1])
    sample.pred_proposals = MaskProposals(masks, torch.tensor([2, 2, 3, 3]), score)
    metrics = evaluate([sample], [PointInstanceMetric(label_space=SPACE)])
    assert metrics['rooms/ap_points/gt_points/AP'] == 1.0
    # the last mask holds table 5 with an IoU of one half: at 0.25 the benchmark counts it as a second detection
    assert metrics['rooms/ap_points/gt_points/AP25'] == 1.0
    first = MaskProposals(masks.flip(0), torch.tensor([3, 3, 2, 2]), score)
    turned = evaluate([copy_with(sample, pred_proposals=first)], [PointInstanceMetric(label_space=SPACE)])
    assert turned['rooms/ap_points/gt_points/AP'] < 1.0  # now the union has the highest score


def test_background_as_an_instance_costs_a_perfect_prediction() -> None:
    sample = make_points(0, share_wrong=0.0)
    metric = PointInstanceMetric(label_space=SPACE, class_agnostic=True, rules='maskclustering')
    metrics = evaluate([sample], [metric])
    assert metrics['rooms/ap_points_class_agnostic_maskclustering/gt_points/AP'] == pytest.approx(3 / 4)


def test_instances_of_views_follow_their_proposals(tmp_path: Path) -> None:
    sample = make_views(0, tmp_path)
    masks = torch.stack([sample.gt_panoptic.instance == i for i in (3, 4, 5)])
    proposals = MaskProposals(masks, torch.tensor([2, 2, 3]), torch.tensor([0.9, 0.8, 0.7]))
    metrics = evaluate([copy_with(sample, pred_proposals=proposals)], [ImageInstanceMetric(label_space=SPACE)])
    assert set(metrics.values()) == {1.0}


def test_true_depth_does_not_know_the_prediction(tmp_path: Path) -> None:
    """Cut in two and pulled apart, no similarity brings the predicted points back; true depth carries as before."""
    sample = make_views(0, tmp_path, share_wrong=0.0)
    geometry = sample.pred_reconstruction
    poses = geometry.camera_to_world.clone()
    poses[:, 2, 3] += torch.tensor([0.0, 5.0, -9.0])
    moved = Reconstruction.from_depth(geometry.depth, geometry.intrinsics, poses)
    metrics = evaluate([copy_with(sample, pred_reconstruction=moved)], [UniteMeshMetric(label_space=SPACE)])
    for name in ('mIoU', 'mAcc', 'Acc', 'AP'):
        assert metrics[f'rooms/unite_mesh/gt_depth/{name}'] == 1.0
        assert metrics[f'rooms/unite_mesh/own_geometry/{name}'] < 1.0


def test_own_geometry_is_aligned_first(tmp_path: Path) -> None:
    sample = make_views(0, tmp_path)
    geometry = sample.pred_reconstruction
    turn = torch.tensor([[0.0, -1, 0, 3], [1, 0, 0, -2], [0, 0, 1, 7], [0, 0, 0, 1]]).double()
    turned = Reconstruction(
        points=transform_points(turn, geometry.points.flatten(0, 2)).view_as(geometry.points),
        local_points=geometry.local_points,
        confidence=geometry.confidence,
        camera_to_world=turn @ geometry.camera_to_world,
        intrinsics=geometry.intrinsics,
        valid=geometry.valid,
    )
    expected = evaluate([sample], [UniteMeshMetric(label_space=SPACE)])
    assert_same(
        evaluate([copy_with(sample, pred_reconstruction=turned)], [UniteMeshMetric(label_space=SPACE)]), expected
    )


def test_vertices_of_the_mesh_follow_the_mean_of_their_pixels(tmp_path: Path) -> None:
    """One vertex between pixels of two classes: the nearest is outvoted."""
    sample = make_views(0, tmp_path, share_wrong=0.0)
    points = sample.gt_reconstruction.points[0, 8]
    path = tmp_path / 'one.npz'
    np.savez(path, vertices=points[9:10].float().numpy(), instance=np.array([5], np.int32))
    probabilities = torch.zeros(VIEWS, 4, HEIGHT, WIDTH)
    probabilities[:, 0] = 1.0
    probabilities[0, :, 8, 9] = torch.tensor([0.0, 0.0, 0.0, 1.0])
    near = copy_with(sample, pred_semantic=probabilities)
    near.set_metainfo({'mesh_path': str(path)})
    key = 'rooms/unite_mesh/gt_depth/Acc'
    assert evaluate([near], [UniteMeshMetric(label_space=SPACE)])[key] == 1.0
    away = (points[9:10] + torch.tensor([0.012, 0.0, 0.0])).float().numpy()
    np.savez(path, vertices=away, instance=np.array([5], np.int32))
    assert evaluate([near], [UniteMeshMetric(label_space=SPACE)])[key] == 0.0
    assert evaluate([near], [UniteMeshMetric(label_space=SPACE, num_neighbours=1)])[key] == 1.0


def test_voxels_name_their_choices(tmp_path: Path) -> None:
    sample = make_views(0, tmp_path)
    choices = {
        '': {},
        '_panoptic': {'read_out': 'panoptic'},
        '_gt_or_predicted': {'classes': 'gt_or_predicted'},
        '_all_ignore_void': {'classes': 'all', 'ignore_gt_void_voxels': True},
    }
    metrics = evaluate([sample], [VoxelMetric(label_space=SPACE, **arguments) for arguments in choices.values()])
    assert {key.split('/')[1] for key in metrics} == {f'miou_voxel{suffix}' for suffix in choices}


def test_nothing_to_score_is_undefined() -> None:
    sample = make_points(0)
    void = PanopticMap(torch.full((1400,), -1), torch.zeros(1400, dtype=torch.int64))
    metrics = evaluate([copy_with(sample, gt_panoptic=void)], point_metrics())
    for name in ('miou_points/gt_points/mIoU', 'ap_points/gt_points/AP', 'pq_points_coco/gt_points/PQ'):
        assert math.isnan(metrics[f'rooms/{name}']), name


@pytest.mark.parametrize(
    'config',
    [
        {'type': 'PointPanopticMetric', 'label_space': 'scannet20'},
        {'type': 'PointSemanticMetric', 'label_space': 'scannet200'},
        {'type': 'PointInstanceMetric', 'label_space': 'scannet20', 'class_agnostic': True},
        {'type': 'ImageInstanceMetric', 'label_space': 'scannet20'},
        {'type': 'UniteMeshMetric', 'label_space': 'scannet20'},
    ],
)
def test_builds_from_a_config(config: dict[str, Any]) -> None:
    assert isinstance(METRICS.build(config), BaseMetric)


# ------------------------------------------------------------------------------------------------------------- refusals

LABELS = torch.zeros(VIEWS, HEIGHT, WIDTH, dtype=torch.int64)


@pytest.mark.parametrize('metric', [PointPanopticMetric, PointSemanticMetric, PointInstanceMetric])
def test_points_are_refused_by_what_is_wrong_with_them(metric: type[BaseMetric], tmp_path: Path) -> None:
    built, sample = metric(label_space=SPACE), make_points(7)
    wrong = {
        'expected `gt_panoptic` .* found nothing': {'gt_panoptic': None},
        r'on the 1400 points of `gt_panoptic`, got \(1399,\)': {'pred_panoptic': sample.pred_panoptic[1:]},
        r'\[-1, 3\]': {'gt_panoptic': PanopticMap(sample.gt_panoptic.category + 4, sample.gt_panoptic.instance)},
    }
    for message, change in wrong.items():
        with pytest.raises(ValueError, match=f"scene 'scene0007': .*{message}"):
            built.process(None, [copy_with(sample, **change).to_dict()])
    with pytest.raises(ValueError, match=r'not of points \(N,\) but \(3, 16, 20\); .*`geometry`'):
        built.process(None, [make_views(0, tmp_path).to_dict()])
    with pytest.raises(ValueError, match='no scene was evaluated'):
        metric(label_space=SPACE).evaluate(0)


@pytest.mark.parametrize('metric', [PointInstanceMetric, ImageInstanceMetric, UniteMeshMetric])
def test_segments_must_be_those_of_the_map(metric: type[BaseMetric], tmp_path: Path) -> None:
    sample = make_points(7) if metric is PointInstanceMetric else make_views(7, tmp_path)
    segments = sample.pred_segments
    first = segments[0]
    wrong = {
        'expected `pred_segments` .* found nothing': None,
        r'does not list \(category, instance\) \[\(0, 0\)\]': segments[1:],
        'lists a segment twice': [*segments, first],
        'must have finite scores': [first | {'score': math.nan}, *segments[1:]],
    }
    for message, value in wrong.items():
        with pytest.raises(ValueError, match=f"scene 'scene0007': .*{message}"):
            metric(label_space=SPACE).process(None, [copy_with(sample, pred_segments=value).to_dict()])
    negative = PanopticMap(sample.pred_panoptic.category, sample.pred_panoptic.instance - 1)
    with pytest.raises(ValueError, match='must not have negative instances, got -1'):
        metric(label_space=SPACE).process(None, [copy_with(sample, pred_panoptic=negative).to_dict()])


def test_views_are_refused_by_what_is_wrong_with_them(tmp_path: Path) -> None:
    sample = make_views(7, tmp_path)
    small = sample.pred_panoptic[:2]
    nan = torch.full((VIEWS, 4, HEIGHT, WIDTH), torch.nan)
    mesh, image = UniteMeshMetric(label_space=SPACE), ImageInstanceMetric(label_space=SPACE)
    cases: list[tuple[BaseMetric, dict[str, Any], str]] = [
        (image, {'pred_panoptic': small}, 'must have the 3 views of `gt_panoptic`, got 2'),
        (mesh, {'pred_panoptic': small}, r'`pred_panoptic` .*\(3, 16, 20\), got \(2, 16, 20\)'),
        (mesh, {'pred_semantic': nan[..., 1:]}, '`pred_semantic` is nan'),
        (mesh, {'pred_semantic': torch.zeros(VIEWS, 4, HEIGHT, 9)}, r'`pred_semantic` .* got \(3, 16, 9\)'),
        (mesh, {'pred_reconstruction': None}, 'expected `pred_reconstruction`'),
    ]
    for metric, change, message in cases:
        with pytest.raises(ValueError, match=f"scene 'scene0007': .*{message}"):
            metric.process(None, [copy_with(sample, **change).to_dict()])


def test_the_mesh_is_refused_by_what_is_wrong_with_it(tmp_path: Path) -> None:
    metric = UniteMeshMetric(label_space=SPACE)

    def refused(message: str, error: type[Exception] = ValueError, **meta: Any) -> None:
        sample = make_views(7, tmp_path)
        sample.set_metainfo(meta)
        with pytest.raises(error, match=message):
            metric.process(None, [sample.to_dict()])

    refused('`mesh_path` must be the mesh of the scene, got None', mesh_path=None)
    refused(
        r'vertices have ids \[6\] that `instance_categories` does not list',
        instance_categories={i: c for i, c in CATEGORIES.items() if i != 6},
    )
    refused("labelled in 'scannet20', the metric expects 'rooms'", label_space='scannet20')
    refused('absent.npz', FileNotFoundError, mesh_path=str(tmp_path / 'absent.npz'))
    broken, partial = tmp_path / 'broken.npz', tmp_path / 'partial.npz'
    broken.write_bytes(b'PK no mesh')
    np.savez(partial, vertices=np.zeros((3, 3)))
    refused('broken.npz: expected the arrays `vertices` and `instance`', mesh_path=str(broken))
    refused('partial.npz: expected the arrays', mesh_path=str(partial))
    np.savez(partial, vertices=np.zeros((3, 3)), instance=np.zeros(4, np.int32))
    refused(r'partial.npz: expected \(N, 3\) and \(N,\), found \(3, 3\) and \(4,\)', mesh_path=str(partial))


@pytest.mark.parametrize(
    ('metric', 'arguments', 'message'),
    [
        (PointPanopticMetric, {'rules': 'cocoo'}, "`rules` .*'mmdet3d'.* got 'cocoo'"),
        (PointPanopticMetric, {'rules': 'coco', 'min_points': 5}, "`min_points` belongs .*, got 5 with 'coco'"),
        (PointInstanceMetric, {'rules': 'coco'}, "`rules` .* got 'coco'"),
        (PointInstanceMetric, {'rules': 'maskclustering'}, 'set `class_agnostic`'),
        (PointInstanceMetric, {'class_agnostic': True, 'per_class': True}, 'unset `class_agnostic`'),
        (VoxelMetric, {'classes': 'seen'}, "`classes` .*'gt_or_predicted'.* got 'seen'"),
        (VoxelMetric, {'read_out': 'argmax'}, "`read_out` .* got 'argmax'"),
        (VoxelMetric, {'min_confidence_quantile': 1.0}, r'\[0, 1\), got 1.0'),
    ],
)
def test_refuses_unknown_choices(metric: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric(label_space=SPACE, **arguments)


def test_half_precision_is_taken_as_it_is_and_changes_nothing(tmp_path: Path) -> None:
    sample = make_views(0, tmp_path)
    half = copy_with(sample, pred_semantic=sample.pred_semantic.half())
    assert class_probabilities(half.to_dict(), SPACE) is half.pred_semantic  # nobody made it larger
    metrics = [*view_metrics(), SemanticIoUMetric(label_space=SPACE)]
    assert_same(evaluate([half], metrics), evaluate([sample], metrics))


def test_narrow_labels_change_nothing(tmp_path: Path) -> None:
    for sample, metrics in ((make_points(0), point_metrics), (make_views(0, tmp_path), view_metrics)):
        narrow = {
            name: PanopticMap(sample.get(name).category.to(torch.int8), sample.get(name).instance.to(torch.int16))
            for name in ('gt_panoptic', 'pred_panoptic')
        }
        assert_same(evaluate([copy_with(sample, **narrow)], metrics()), evaluate([sample], metrics()))


def test_labels_of_the_mesh_are_carried_once_for_all_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searched = []
    search = mesh_labels.pixel_neighbours
    monkeypatch.setattr(mesh_labels, 'pixel_neighbours', lambda *a, **k: searched.append(1) or search(*a, **k))
    places = ('gt_depth', 'own_geometry')
    metrics = [
        UniteMeshMetric(label_space=SPACE),
        *(PointPanopticMetric(label_space=SPACE, geometry=place) for place in places),
        *(PointSemanticMetric(label_space=SPACE, geometry=place) for place in places),
        *(PointInstanceMetric(label_space=SPACE, geometry=place, class_agnostic=True) for place in places),
    ]
    sample = make_views(0, tmp_path)
    together = summarize_scenes([measure_scene(sample, metrics)], metrics).metrics
    assert len(searched) == len(places)
    assert_same(together, evaluate([sample], metrics))  # one by one
    assert len(searched) > len(places)


def test_points_of_the_mesh_are_scored_as_points_that_are_given(tmp_path: Path) -> None:
    """One vertex at every pixel with depth, one neighbour each: the labels of the pixels themselves."""
    sample = make_views(0, tmp_path)
    seen = sample.gt_reconstruction.valid
    given = copy_with(sample, gt_panoptic=sample.gt_panoptic[seen], pred_panoptic=sample.pred_panoptic[seen])
    carried = vertex_sample(sample.to_dict(), SPACE, 'gt_depth', num_neighbours=1)
    for name in ('gt_panoptic', 'pred_panoptic'):
        assert torch.equal(carried[name].category, given.get(name).category)
        assert torch.equal(carried[name].instance, given.get(name).instance)
