"""Metrics of cameras and of the prediction's own points: keys, invariants, merging of states, what they refuse."""

from __future__ import annotations

import dataclasses
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from scipy.spatial.transform import Rotation

from pano3d.evaluation import (
    DepthMetric,
    IGGTMetric,
    PointCloudMetric,
    PosePairMetric,
    SemanticIoUMetric,
    TrajectoryMetric,
    UnposedInstanceMetric,
    VoxelMetric,
)
from pano3d.functional.geometry import transform_points
from pano3d.registry import METRICS
from pano3d.structures import LabelSpace, PanopticMap, Reconstruction, SceneSample

SPACE = LabelSpace(
    name='rooms',
    names=('wall', 'floor', 'chair', 'table'),
    source_ids=(1, 2, 3, 4),
    source_key='id',
    stuff=frozenset({'wall', 'floor'}),
)
VIEWS, HEIGHT, WIDTH = 4, 16, 20


def make_sample(seed: int, *, noise: float = 0.02) -> SceneSample:
    """Views of slanted surfaces and four objects; the prediction has the true labels and noise in geometry and pose."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    depth = 2 + 0.02 * rows + 0.01 * columns + 0.3 * generator.random((VIEWS, 1, 1))
    depth += 0.002 * generator.random(depth.shape)
    depth[:, :2, :2] = 0
    poses = np.tile(np.eye(4), (VIEWS, 1, 1))
    poses[:, :3, :3] = Rotation.from_rotvec(0.3 * generator.normal(size=(VIEWS, 3))).as_matrix()
    poses[:, :3, 3] = generator.normal(size=(VIEWS, 3))
    intrinsics = torch.tensor([[80.0, 0, 10], [0, 80, 8], [0, 0, 1]]).double().expand(VIEWS, 3, 3)
    truth = Reconstruction.from_depth(torch.from_numpy(depth), intrinsics, torch.from_numpy(poses))

    wrong = depth * (1 + noise * generator.normal(size=depth.shape))
    moved = poses.copy()
    moved[:, :3, :3] = poses[:, :3, :3] @ Rotation.from_rotvec(noise * generator.normal(size=(VIEWS, 3))).as_matrix()
    moved[:, :3, 3] += noise * generator.normal(size=(VIEWS, 3))
    predicted = Reconstruction.from_depth(torch.from_numpy(wrong), intrinsics, torch.from_numpy(moved))

    block = torch.zeros(VIEWS, HEIGHT, WIDTH, dtype=torch.int64)
    block[:, :8, :10], block[:, :8, 10:], block[:, 8:, :5], block[:, 8:, 5:13] = 1, 2, 3, 4
    block[:, 13:, 17:] = -1
    category = torch.tensor([0, 2, 2, 3, 3, -1])[block]  # the last entry is that of void, -1
    labels = PanopticMap(category, torch.where(category > 1, block, 0))

    sample = SceneSample(metainfo={'scene_id': f'scene{seed:04d}', 'label_space': 'rooms'})
    sample.gt_reconstruction, sample.pred_reconstruction = truth, predicted
    sample.gt_panoptic = sample.pred_panoptic = labels
    shown = torch.where(category < 0, 0, category)
    sample.pred_semantic = torch.nn.functional.one_hot(shown, 4).movedim(-1, 1).float()
    segments = [(0, 0), (2, 1), (2, 2), (3, 3), (3, 4)]
    sample.set_field([{'category': c, 'instance': i, 'score': 0.5 + 0.1 * i} for c, i in segments], 'pred_segments')
    return sample


def copy_with(sample: SceneSample, **changed: Any) -> SceneSample:
    other = SceneSample(metainfo=dict(sample.metainfo_items()))
    for name, value in (dict(sample.items()) | changed).items():
        other.set_field(value, name)
    return other


def perfect(sample: SceneSample) -> SceneSample:
    return copy_with(sample, pred_reconstruction=sample.gt_reconstruction)


def in_other_world(geometry: Reconstruction, scale: float = 3.0) -> Reconstruction:
    """The same prediction after a Sim(3) of its world."""
    turn = torch.from_numpy(Rotation.random(random_state=1).as_matrix())
    motion = torch.eye(4).double()
    motion[:3, :3], motion[:3, 3] = turn, torch.tensor([1.0, -2, 3])
    poses = geometry.camera_to_world.clone()
    poses[:, :3, 3] *= scale
    return dataclasses.replace(
        geometry,
        points=transform_points(motion, scale * geometry.points.flatten(0, 2)).view_as(geometry.points),
        local_points=scale * geometry.local_points,
        camera_to_world=motion @ poses,
    )


def all_metrics() -> list[BaseMetric]:
    return [
        PosePairMetric(),
        PosePairMetric(averaging='scenes', direction='both', bins='histc', thresholds=(3, 10)),
        TrajectoryMetric(),
        PointCloudMetric(),
        PointCloudMetric(icp=True),
        UnposedInstanceMetric(label_space=SPACE),
        IGGTMetric(label_space=SPACE),
        DepthMetric(averaging='views'),
        DepthMetric(averaging='scene_pixels', protocol='depth_mvd'),
        DepthMetric(rules='pi3'),
    ]


def evaluate(samples: list[SceneSample], *metrics: BaseMetric) -> dict[str, float]:
    evaluator = Evaluator(list(metrics) or all_metrics())
    for sample in samples:
        evaluator.process([sample])
    return evaluator.evaluate(len(samples))


def assert_same(left: dict[str, float], right: dict[str, float], tolerance: float) -> None:
    assert left.keys() == right.keys()
    for key, value in left.items():
        assert right[key] == pytest.approx(value, abs=tolerance), key


def test_keys_name_protocol_geometry_and_choices() -> None:
    scores = ('accuracy', 'accuracy_median', 'completion', 'completion_median', 'completion_ratio')
    scores += ('normal_consistency', 'normal_consistency_median')
    expected = {f'{p}/own_geometry/{s}' for p in ('points_acc_comp', 'points_acc_comp_icp') for s in scores}
    expected |= {f'pose_auc/own_geometry/{s}@{t}' for s in ('RRA', 'RTA', 'AUC') for t in (5, 15, 30)}
    expected |= {f'pose_auc_scene_mean_both_histc/own_geometry/{s}@{t}' for s in ('RRA', 'RTA', 'AUC') for t in (3, 10)}
    expected |= {f'pose_ate/own_geometry/{s}' for s in ('ATE', 'RPE_translation', 'RPE_rotation')}
    expected |= {f'rooms/unposed_ap/own_geometry/{s}' for s in ('AP', 'AP50', 'AP25')}
    columns = ('AbsRel', 'tau', 'MVD_AbsRel', 'MVD_tau', 'mIoU_2D', 'mIoU_3D')
    expected |= {f'rooms/iggt/own_geometry/{s}' for s in columns}
    names = ('depth_per_view_views', 'depth_mvd_scene_pixels', 'depth_per_view_pi3')
    expected |= {f'{p}/own_geometry/{s}' for p in names for s in ('AbsRel', 'tau')}
    assert set(evaluate([make_sample(0)])) == expected


ERRORS = ('AbsRel', 'ATE', 'RPE_translation', 'RPE_rotation', 'accuracy', 'completion', '_median')


def best(key: str) -> float:
    name = key.rpartition('/')[2]
    return 0.0 if name.endswith(ERRORS) and not name.startswith('normal') else 1.0


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_ground_truth_fed_back_is_exactly_perfect(dtype: torch.dtype) -> None:
    samples = []
    for seed in range(3):
        sample = make_sample(seed)
        truth = sample.gt_reconstruction
        fields = {f.name: getattr(truth, f.name) for f in dataclasses.fields(truth)}
        sample.gt_reconstruction = Reconstruction(
            **{name: value.to(dtype) if value.is_floating_point() else value for name, value in fields.items()}
        )
        samples.append(perfect(sample))
    for key, value in evaluate(samples).items():
        assert value == best(key), key


def test_noise_costs_in_every_metric() -> None:
    metrics = evaluate([make_sample(seed, noise=0.2) for seed in range(3)])
    for key, value in metrics.items():
        if not key.endswith('mIoU_2D'):
            assert abs(value - best(key)) > 1e-3, key


def test_world_and_scale_of_the_prediction_do_not_matter() -> None:
    samples = [make_sample(seed) for seed in range(2)]
    moved = [copy_with(s, pred_reconstruction=in_other_world(s.pred_reconstruction)) for s in samples]
    assert_same(evaluate(moved), evaluate(samples), 1e-7)
    exact = [copy_with(perfect(s), pred_reconstruction=in_other_world(s.gt_reconstruction)) for s in samples]
    for key, value in evaluate(exact).items():
        assert value == pytest.approx(best(key), abs=1e-6), key


def test_views_may_be_permuted() -> None:
    samples = [make_sample(seed) for seed in range(2)]
    order = torch.tensor([2, 0, 3, 1])
    permuted = [
        copy_with(s, **{name: value[order] for name, value in s.items() if name != 'pred_segments'}) for s in samples
    ]
    expected, found = evaluate(samples), evaluate(permuted)
    ordered = {key for key in expected if key.startswith('pose_auc/') or 'RPE' in key}  # they follow the order of views
    assert_same(*({k: v for k, v in m.items() if k not in ordered} for m in (expected, found)), 1e-10)


def test_states_of_two_processes_equal_one_pass() -> None:
    samples = [make_sample(seed) for seed in range(4)]
    expected = evaluate(samples)
    merged: dict[str, float] = {}
    for first, second in zip(all_metrics(), all_metrics(), strict=True):
        first.process(None, [sample.to_dict() for sample in samples[:2]])
        second.process(None, [sample.to_dict() for sample in samples[2:]])
        first.results = pickle.loads(pickle.dumps(second.results)) + first.results  # as mmengine sends them
        merged |= first.evaluate(4)
    assert_same(merged, expected, 1e-12)


def test_states_are_small() -> None:
    for metric in all_metrics():
        metric.process(None, [make_sample(0).to_dict()])
        assert len(metric.results) == 1, 'mmengine drops padded samples by their number'
        assert len(pickle.dumps(metric.results)) < 8192


def test_pairs_are_pooled_or_averaged_over_scenes() -> None:
    long, short = make_sample(0, noise=0.0), make_sample(1, noise=0.3)
    two = torch.tensor([0, 1])
    short = copy_with(
        short, **{f'{side}_reconstruction': getattr(short, f'{side}_reconstruction')[two] for side in ('gt', 'pred')}
    )
    single = [evaluate([s], PosePairMetric(thresholds=(2,)))['pose_auc/own_geometry/RRA@2'] for s in (long, short)]
    assert single == [1.0, 0.0]
    pooled = evaluate([long, short], PosePairMetric(thresholds=(2,)))
    assert pooled['pose_auc/own_geometry/RRA@2'] == pytest.approx(6 / 7)
    mean = evaluate([long, short], PosePairMetric(thresholds=(2,), averaging='scenes'))
    assert mean['pose_auc_scene_mean/own_geometry/RRA@2'] == 0.5


def test_scenes_without_alignment_are_left_out_of_the_trajectory() -> None:
    good = make_sample(0)
    two = torch.tensor([0, 1])
    pair = copy_with(
        good, **{f'{side}_reconstruction': getattr(good, f'{side}_reconstruction')[two] for side in ('gt', 'pred')}
    )
    assert evaluate([good, pair], TrajectoryMetric()) == evaluate([good], TrajectoryMetric())
    assert math.isnan(evaluate([pair], TrajectoryMetric())['pose_ate/own_geometry/ATE'])


def test_points_without_truth_are_not_scored() -> None:
    """What is predicted where there is no depth may be anything; true points without prediction still count."""
    sample = make_sample(0)
    expected = evaluate([sample], PointCloudMetric())
    predicted = sample.pred_reconstruction
    unknown = ~sample.gt_reconstruction.valid
    assert unknown.any()
    wild = dataclasses.replace(predicted, points=predicted.points.masked_fill(unknown[..., None], torch.nan))
    assert evaluate([copy_with(sample, pred_reconstruction=wild)], PointCloudMetric()) == expected
    half = dataclasses.replace(predicted, valid=predicted.valid & (torch.arange(WIDTH) < WIDTH // 2))
    found = evaluate([copy_with(perfect(sample), pred_reconstruction=half)], PointCloudMetric())
    assert found['points_acc_comp/own_geometry/completion'] > 2 * found['points_acc_comp/own_geometry/accuracy']


def test_voxels_that_are_not_predicted_are_missed() -> None:
    sample = perfect(make_sample(0))
    half = dataclasses.replace(
        sample.gt_reconstruction, valid=sample.gt_reconstruction.valid & (torch.arange(WIDTH) < WIDTH // 2)
    )
    found = evaluate([copy_with(sample, pred_reconstruction=half)], VoxelMetric(label_space=SPACE))
    assert found['rooms/miou_voxel/own_geometry/occupancy_IoU'] < 0.8


def test_icp_brings_the_clouds_closer() -> None:
    samples = [make_sample(seed) for seed in range(3)]
    plain, refined = (evaluate(samples, PointCloudMetric(icp=icp)) for icp in (False, True))
    key = 'own_geometry/accuracy'
    assert refined[f'points_acc_comp_icp/{key}'] <= plain[f'points_acc_comp/{key}']


def test_geometry_that_is_elsewhere_carries_no_instances() -> None:
    """A quarter of the views is predicted ten metres off; their points cannot label the truth."""
    sample = perfect(make_sample(0))
    truth = sample.gt_reconstruction
    points = truth.points.clone()
    points[3] += 10
    off = copy_with(sample, pred_reconstruction=dataclasses.replace(truth, points=points))
    assert evaluate([off], UnposedInstanceMetric(label_space=SPACE))['rooms/unposed_ap/own_geometry/AP'] < 1
    reach = evaluate([sample], UnposedInstanceMetric(label_space=SPACE, label_distance=0.0))
    assert reach['rooms/unposed_ap/own_geometry/AP'] == 1.0, 'exact geometry needs no reach'


def test_unposed_instances_follow_the_labels() -> None:
    """Right geometry, but two objects are one mask, which has an IoU of 320 / 624 = 0.51 with the larger."""
    sample = perfect(make_sample(0))
    labels = sample.gt_panoptic
    merged = PanopticMap(labels.category, torch.where(labels.instance == 2, 1, labels.instance))
    segments = [s for s in sample.pred_segments if s['instance'] != 2]
    scene = copy_with(sample, pred_panoptic=merged, pred_segments=segments)
    found = evaluate([scene], UnposedInstanceMetric(label_space=SPACE))
    assert found['rooms/unposed_ap/own_geometry/AP50'] == pytest.approx(3 / 4)
    # from 0.55 on it is wrong: precisions 1, 1, 1, 2/3 at recalls 0, 1/4, 2/4, 2/4, weighted by half the recall around
    above = ((1 / 4 - 0) + (2 / 4 - 0) + (2 / 4 - 1 / 4) + 0) / 2
    assert found['rooms/unposed_ap/own_geometry/AP'] == pytest.approx((3 / 4 + 8 * above) / 9)


def test_class_of_things_does_not_matter_to_unposed_instances() -> None:
    sample = perfect(make_sample(0))
    labels = sample.gt_panoptic
    swapped = torch.where(labels.category > 1, 5 - labels.category, labels.category)
    segments = [s | {'category': 5 - s['category']} if s['instance'] else s for s in sample.pred_segments]
    other = copy_with(sample, pred_panoptic=PanopticMap(swapped, labels.instance), pred_segments=segments)
    assert set(evaluate([other], UnposedInstanceMetric(label_space=SPACE)).values()) == {1.0}


def test_iggt_is_composed_of_its_parts() -> None:
    samples = [make_sample(seed) for seed in range(2)]
    found = evaluate(samples, IGGTMetric(label_space=SPACE))
    voxels = VoxelMetric(label_space=SPACE, min_confidence_quantile=0.1, min_points=2)
    parts = evaluate(
        samples, DepthMetric(), DepthMetric(protocol='depth_mvd'), SemanticIoUMetric(label_space=SPACE), voxels
    )
    expected = {
        'AbsRel': parts['depth_per_view/own_geometry/AbsRel'],
        'tau': parts['depth_per_view/own_geometry/tau'],
        'MVD_AbsRel': parts['depth_mvd/own_geometry/AbsRel'],
        'MVD_tau': parts['depth_mvd/own_geometry/tau'],
        'mIoU_2D': parts['rooms/miou/pixels/mIoU'],
        'mIoU_3D': parts['rooms/miou_voxel/own_geometry/mIoU'],
    }
    assert found == {f'rooms/iggt/own_geometry/{name}': value for name, value in expected.items()}


def test_filters_of_iggt_are_those_of_its_voxels() -> None:
    sample = make_sample(0)
    confidence = torch.linspace(0, 1, VIEWS * HEIGHT * WIDTH).view(VIEWS, HEIGHT, WIDTH)
    sample.pred_reconstruction = dataclasses.replace(sample.pred_reconstruction, confidence=confidence)
    scores = []
    for filters in ({}, {'min_confidence_quantile': 0.5}, {'min_points': 1}, {'voxel_size': 0.3}):
        found = evaluate([sample], IGGTMetric(label_space=SPACE, **filters))
        full = {'min_confidence_quantile': 0.1, 'min_points': 2} | filters
        voxels = evaluate([sample], VoxelMetric(label_space=SPACE, **full))
        scores.append(found['rooms/iggt/own_geometry/mIoU_3D'])
        assert scores[-1] == voxels['rooms/miou_voxel/own_geometry/mIoU']
    assert len(set(scores)) == 4, 'every filter counts'


def test_depth_averages() -> None:
    """A view of one valid pixel beside one of three, and a scene of one view: weights 1, 3, 2."""

    def sample(errors: list[list[float]], valid: list[list[bool]]) -> SceneSample:
        predicted = torch.tensor(errors).double()[:, None]
        known = torch.tensor(valid)[:, None]
        cameras = torch.eye(3).double().expand(len(errors), 3, 3), torch.eye(4).double().expand(len(errors), 4, 4)
        scene = SceneSample(metainfo={'scene_id': 'scene'})
        scene.gt_reconstruction = Reconstruction.from_depth(torch.where(known, 2.0, 0.0).double(), *cameras)
        scene.pred_reconstruction = Reconstruction.from_depth(predicted, *cameras)
        return scene

    # aligned by the median, one pixel of three is 50 % too far: AbsRel 1/6; of two, lower median: 1/4, middle: 1/5
    one = sample([[7.0, 9, 9], [2.0, 2, 3]], [[True, False, False], [True, True, True]])
    two = sample([[2.0, 3, 9]], [[True, True, False]])
    expected = {
        ('iggt', 'scenes'): ((0 + 1 / 6) / 2 + 1 / 5) / 2,
        ('iggt', 'views'): (0 + 1 / 6 + 1 / 5) / 3,
        ('iggt', 'scene_pixels'): (3 / 6 / 4 + 1 / 5) / 2,
        ('iggt', 'pixels'): (3 / 6 + 2 / 5) / 6,
        ('pi3', 'pixels'): (3 / 6 + 2 / 4) / 6,
    }
    for (rules, averaging), value in expected.items():
        metric = DepthMetric(rules=rules, averaging=averaging)
        found = evaluate([one, two], metric)
        assert found[f'{metric.prefix}/AbsRel'] == pytest.approx(value), (rules, averaging)


@pytest.mark.parametrize(
    'config',
    [
        {'type': 'PosePairMetric', 'thresholds': [5, 15, 30]},
        {'type': 'TrajectoryMetric'},
        {'type': 'PointCloudMetric', 'icp': True},
        {'type': 'UnposedInstanceMetric', 'label_space': 'scannet20'},
        {'type': 'IGGTMetric', 'label_space': 'scannet20'},
    ],
)
def test_builds_from_a_config(config: dict[str, Any]) -> None:
    assert isinstance(METRICS.build(config), BaseMetric)


def geometry_of(size: tuple[int, int, int]) -> Reconstruction:
    views = size[0]
    return Reconstruction.from_depth(
        torch.ones(size), torch.eye(3).expand(views, 3, 3), torch.eye(4).expand(views, 4, 4)
    )


def with_nan(geometry: Reconstruction) -> Reconstruction:
    broken = {f.name: getattr(geometry, f.name).clone() for f in dataclasses.fields(geometry)}
    for name in ('points', 'local_points', 'camera_to_world'):
        broken[name].view(-1)[:] = torch.nan
    return Reconstruction(**broken)


CAMERA_METRICS = [PosePairMetric(), TrajectoryMetric()]
POINT_METRICS = [PointCloudMetric(), UnposedInstanceMetric(label_space=SPACE), VoxelMetric(label_space=SPACE)]


@pytest.mark.parametrize('metric', CAMERA_METRICS + POINT_METRICS, ids=lambda metric: type(metric).__name__)
def test_refuses_what_is_missing_or_not_finite(metric: BaseMetric) -> None:
    sample = make_sample(7)
    without = copy_with(sample)
    without.pop('pred_reconstruction')
    with pytest.raises(ValueError, match=r"scene 'scene0007': expected `pred_reconstruction` .* found nothing"):
        metric.process(None, [without.to_dict()])
    broken = copy_with(sample, pred_reconstruction=with_nan(sample.pred_reconstruction))
    with pytest.raises(ValueError, match=r"scene 'scene0007': `(predicted|source)` must be finite"):
        metric.process(None, [broken.to_dict()])


@pytest.mark.parametrize('metric', POINT_METRICS, ids=lambda metric: type(metric).__name__)
def test_refuses_points_that_do_not_fit(metric: BaseMetric) -> None:
    sample = make_sample(7)
    small = copy_with(sample, pred_reconstruction=geometry_of((VIEWS, HEIGHT, 9)))
    with pytest.raises(ValueError, match=r"scene 'scene0007': .*\(4, 16, 20\), got \(4, 16, 9\)"):
        metric.process(None, [small.to_dict()])
    sample.pred_reconstruction = dataclasses.replace(
        sample.pred_reconstruction, points=torch.ones(VIEWS, HEIGHT, WIDTH, 3).double()
    )
    with pytest.raises(ValueError, match=r"scene 'scene0007': .* do not determine a similarity"):
        metric.process(None, [sample.to_dict()])


@pytest.mark.parametrize('metric', CAMERA_METRICS, ids=lambda metric: type(metric).__name__)
def test_refuses_cameras_that_do_not_fit(metric: BaseMetric) -> None:
    sample = make_sample(7)
    fewer = copy_with(sample, pred_reconstruction=sample.pred_reconstruction[:2])
    with pytest.raises(ValueError, match=r"scene 'scene0007': .*\(4, 4, 4\), got \(2, 4, 4\)"):
        metric.process(None, [fewer.to_dict()])
    single = copy_with(
        fewer, **{f'{s}_reconstruction': getattr(sample, f'{s}_reconstruction')[:1] for s in ('gt', 'pred')}
    )
    with pytest.raises(ValueError, match="scene 'scene0007': pose errors need at least two views, got 1"):
        metric.process(None, [single.to_dict()])


def test_refuses_labels_of_another_size() -> None:
    sample = make_sample(7)
    small = PanopticMap(sample.pred_panoptic.category[:, :9], sample.pred_panoptic.instance[:, :9])
    with pytest.raises(ValueError, match=r'`pred_panoptic` must have the size .*\(4, 16, 20\), got \(4, 9, 20\)'):
        UnposedInstanceMetric(label_space=SPACE).process(None, [copy_with(sample, pred_panoptic=small).to_dict()])


@pytest.mark.parametrize(
    ('metric', 'arguments', 'message'),
    [
        (PosePairMetric, {'averaging': 'mean'}, r"`averaging` must be one of \['pairs', 'scenes'\], got 'mean'"),
        (PosePairMetric, {'direction': 'back'}, "`direction` must be one of .* got 'back'"),
        (PosePairMetric, {'bins': 'numpy'}, "`bins` must be one of .* got 'numpy'"),
        (DepthMetric, {'rules': 'dust3r'}, "`rules` must be one of .* got 'dust3r'"),
        (DepthMetric, {'averaging': 'mean'}, "`averaging` must be one of .* got 'mean'"),
    ],
)
def test_refuses_unknown_choices(metric: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric(**arguments)
