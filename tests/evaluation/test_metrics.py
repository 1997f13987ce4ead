"""The registered metrics: keys, averaging, merging of states, and what they refuse."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator

from pano3d.evaluation import DepthMetric, ScenePanopticMetric, SemanticIoUMetric
from pano3d.registry import METRICS
from pano3d.structures import LabelSpace, PanopticMap, Reconstruction, SceneSample

SPACE = LabelSpace(
    name='rooms',
    names=('wall', 'floor', 'chair', 'table'),
    source_ids=(1, 2, 3, 4),
    source_key='id',
    stuff=frozenset({'wall', 'floor'}),
)
VIEWS, HEIGHT, WIDTH = 3, 6, 8


def reconstruction(depth: torch.Tensor) -> Reconstruction:
    views = len(depth)
    return Reconstruction.from_depth(depth, torch.eye(3).expand(views, 3, 3), torch.eye(4).expand(views, 4, 4))


def make_sample(seed: int, *, perfect: bool = False) -> SceneSample:
    """A scene whose prediction is right in most pixels."""
    generator = torch.Generator().manual_seed(seed)
    size = VIEWS, HEIGHT, WIDTH
    segment = torch.randint(0, 5, (VIEWS, 3, 4), generator=generator).repeat_interleave(2, 1).repeat_interleave(2, 2)
    category = torch.tensor([-1, 0, 1, 2, 3])[segment]
    instance = torch.where(category > 1, segment, 0)
    wrong = torch.rand(size, generator=generator) < (0.0 if perfect else 0.2)
    guess = torch.randint(-1, 4, size, generator=generator)
    predicted = torch.where(wrong, guess, category)
    depth = 1 + torch.rand(size, generator=generator)
    noise = 0.0 if perfect else 0.05 * torch.randn(size, generator=generator)
    sample = SceneSample(metainfo={'scene_id': f'scene{seed:04d}', 'label_space': 'rooms'})
    sample.gt_panoptic = PanopticMap(category, instance)
    sample.pred_panoptic = PanopticMap(predicted, torch.where(predicted > 1, instance + 10, 0))
    shown = torch.where(predicted < 0, 0, predicted)
    sample.pred_semantic = torch.nn.functional.one_hot(shown, 4).movedim(-1, 1).float()
    sample.gt_reconstruction = reconstruction(depth)
    sample.pred_reconstruction = reconstruction(4 * depth * (1 + noise))
    return sample


def all_metrics() -> list[BaseMetric]:
    return [
        ScenePanopticMetric(label_space=SPACE, per_class=True),
        ScenePanopticMetric(label_space=SPACE, protocol='pq_view'),
        ScenePanopticMetric(label_space=SPACE, protocol='pq_scene_pooled'),
        ScenePanopticMetric(label_space=SPACE, rules='panoptic_lifting'),
        SemanticIoUMetric(label_space=SPACE, per_class=True),
        SemanticIoUMetric(label_space=SPACE, read_out='panoptic'),
        DepthMetric(protocol='depth_per_view'),
        DepthMetric(protocol='depth_mvd'),
    ]


def evaluate(samples: list[SceneSample], metrics: list[BaseMetric] | None = None) -> dict[str, float]:
    evaluator = Evaluator(metrics or all_metrics())
    for sample in samples:
        evaluator.process([sample])
    return evaluator.evaluate(len(samples))


def assert_same(left: dict[str, float], right: dict[str, float]) -> None:
    assert left.keys() == right.keys()
    for key, value in left.items():
        assert right[key] == pytest.approx(value, abs=1e-12, nan_ok=True), key


def test_keys_name_label_space_protocol_and_geometry() -> None:
    panoptic = {f'{name}{group}' for name in ('PQ', 'SQ', 'RQ') for group in ('', '_things', '_stuff')}
    expected = {f'rooms/{p}/pixels/{m}' for p in ('pq_scene_mean', 'pq_view', 'pq_scene_pooled') for m in panoptic}
    expected |= {f'rooms/pq_scene_mean_panoptic_lifting/pixels/{m}' for m in panoptic}
    expected |= {f'rooms/pq_scene_mean/pixels/PQ/{name}' for name in SPACE.names}
    expected |= {f'rooms/{p}/pixels/{m}' for p in ('miou', 'miou_panoptic') for m in ('mIoU', 'mAcc', 'Acc')}
    expected |= {f'rooms/miou/pixels/IoU/{name}' for name in SPACE.names}
    expected |= {f'{p}/own_geometry/{m}' for p in ('depth_per_view', 'depth_mvd') for m in ('AbsRel', 'tau')}
    assert set(evaluate([make_sample(0)])) == expected


def test_ground_truth_fed_back_is_perfect() -> None:
    metrics = evaluate([make_sample(seed, perfect=True) for seed in range(3)])
    for key, value in metrics.items():
        assert value == (0.0 if key.endswith('AbsRel') else 1.0), key


def test_views_and_ids_may_be_permuted() -> None:
    samples = [make_sample(seed) for seed in range(3)]
    expected = evaluate(samples)
    order = torch.tensor([2, 0, 1])
    permuted = []
    for sample in samples:
        other = SceneSample(metainfo=dict(sample.metainfo_items()))
        for name, value in sample.items():
            other.set_field(value[order], name)
        instance = other.pred_panoptic.instance
        other.pred_panoptic = PanopticMap(other.pred_panoptic.category, torch.where(instance > 0, 50 - instance, 0))
        permuted.append(other)
    assert_same(evaluate(permuted), expected)


def test_states_of_two_processes_equal_one_pass() -> None:
    samples = [make_sample(seed) for seed in range(5)]
    expected = evaluate(samples)
    merged: dict[str, float] = {}
    for first, second in zip(all_metrics(), all_metrics(), strict=True):
        first.process(None, [sample.to_dict() for sample in samples[:3]])
        second.process(None, [sample.to_dict() for sample in samples[3:]])
        first.results = pickle.loads(pickle.dumps(second.results)) + first.results  # as mmengine sends them
        merged |= first.evaluate(5)
    assert_same(merged, expected)


def test_states_are_small() -> None:
    for metric in all_metrics():
        metric.process(None, [make_sample(0).to_dict()])
        assert len(metric.results) == 1, 'mmengine drops padded samples by their number'
        assert len(pickle.dumps(metric.results)) < 8192


def test_scene_mean_differs_from_pooling_and_leaves_out_undefined_scenes() -> None:
    samples = [make_sample(seed) for seed in range(3)]
    single = [evaluate([sample], [ScenePanopticMetric(label_space=SPACE)]) for sample in samples]
    key = 'rooms/pq_scene_mean/pixels/PQ'
    mean = evaluate(samples, [ScenePanopticMetric(label_space=SPACE)])[key]
    assert mean == pytest.approx(sum(metrics[key] for metrics in single) / 3, abs=1e-12)
    pooled = ScenePanopticMetric(label_space=SPACE, protocol='pq_scene_pooled', rules='coco')
    assert evaluate(samples, [pooled])['rooms/pq_scene_pooled_coco/pixels/PQ'] != pytest.approx(mean, abs=1e-3)

    void = make_sample(3)
    void.gt_panoptic = PanopticMap(torch.full_like(void.gt_panoptic.category, -1), void.gt_panoptic.instance)
    alone = evaluate([void], [ScenePanopticMetric(label_space=SPACE)])
    assert math.isnan(alone[key])
    assert evaluate([*samples, void], [ScenePanopticMetric(label_space=SPACE)])[key] == pytest.approx(mean, abs=1e-12)


def test_semantic_read_out_is_the_most_probable_class() -> None:
    sample = make_sample(0, perfect=True)
    sample.pred_panoptic = PanopticMap(torch.zeros_like(sample.gt_panoptic.category), sample.gt_panoptic.instance * 0)
    metrics = evaluate([sample])
    assert metrics['rooms/miou/pixels/mIoU'] == 1.0
    assert metrics['rooms/miou_panoptic/pixels/mIoU'] < 0.5


def test_depth_is_averaged_over_views_then_scenes() -> None:
    one, two = make_sample(0, perfect=True), make_sample(1, perfect=True)
    depth = torch.full((1, 1, 3), 2.0)
    one.gt_reconstruction = one.pred_reconstruction = reconstruction(depth)
    two.gt_reconstruction = reconstruction(depth.expand(2, 1, 3))
    two.pred_reconstruction = reconstruction(torch.tensor([[[2.0, 2.0, 2.0]], [[2.0, 2.0, 4.0]]]))
    metrics = evaluate([one, two], [DepthMetric(protocol='depth_per_view')])
    assert metrics['depth_per_view/own_geometry/AbsRel'] == pytest.approx((0 + (0 + 1 / 3) / 2) / 2)
    assert metrics['depth_per_view/own_geometry/tau'] == pytest.approx((1 + (1 + 2 / 3) / 2) / 2)


@pytest.mark.parametrize(
    'config',
    [
        {'type': 'ScenePanopticMetric', 'label_space': 'scannet20'},
        {'type': 'SemanticIoUMetric', 'label_space': 'scannet200'},
        {'type': 'DepthMetric'},
    ],
)
def test_builds_from_a_config(config: dict[str, Any]) -> None:
    assert isinstance(METRICS.build(config), BaseMetric)


def with_field(name: str, value: Any) -> SceneSample:
    sample = make_sample(7)
    sample.set_field(value, name)
    return sample


def without_field(name: str) -> SceneSample:
    sample = make_sample(7)
    sample.pop(name)
    return sample


LABELS = torch.zeros(VIEWS, HEIGHT, WIDTH, dtype=torch.int64)


@pytest.mark.parametrize(
    ('metric', 'sample', 'message'),
    [
        (ScenePanopticMetric, without_field('pred_panoptic'), 'expected `pred_panoptic` .* found nothing'),
        (ScenePanopticMetric, without_field('gt_panoptic'), 'expected `gt_panoptic` .* found nothing'),
        (
            ScenePanopticMetric,
            with_field('pred_panoptic', PanopticMap(LABELS[:, :4], LABELS[:, :4])),
            r'`pred_panoptic` must have the size of .*\(3, 6, 8\), got \(3, 4, 8\)',
        ),
        (ScenePanopticMetric, with_field('pred_panoptic', PanopticMap(LABELS + 4, LABELS)), r'\[-1, 3\].*got \[4, 4\]'),
        (ScenePanopticMetric, with_field('pred_panoptic', PanopticMap(LABELS, LABELS - 1)), 'negative, got -1'),
        (SemanticIoUMetric, without_field('pred_semantic'), 'expected `pred_semantic` .* found nothing'),
        (
            SemanticIoUMetric,
            with_field('pred_semantic', torch.zeros(VIEWS, 5, HEIGHT, WIDTH)),
            r'\(V, 4, H, W\), got \(3, 5, 6, 8\)',
        ),
        (
            SemanticIoUMetric,
            with_field('pred_semantic', torch.full((VIEWS, 4, HEIGHT, WIDTH), torch.nan)),
            '`pred_semantic` is nan at 144 of 144 pixels',
        ),
        (
            SemanticIoUMetric,
            with_field('pred_semantic', torch.zeros(VIEWS, 4, HEIGHT, 9)),
            r'\(3, 6, 8\), got \(3, 6, 9\)',
        ),
        (DepthMetric, without_field('pred_reconstruction'), 'expected `pred_reconstruction` .* found nothing'),
        (
            DepthMetric,
            with_field('pred_reconstruction', reconstruction(torch.ones(VIEWS, HEIGHT, 9))),
            r'\(3, 6, 8\), got \(3, 6, 9\)',
        ),
    ],
)
def test_refuses_and_names_the_scene(metric: type[BaseMetric], sample: SceneSample, message: str) -> None:
    built = metric() if metric is DepthMetric else metric(label_space=SPACE)
    with pytest.raises(ValueError, match=f"scene 'scene0007': .*{message}"):
        built.process(None, [sample.to_dict()])


def test_refuses_depth_that_is_not_a_number() -> None:
    sample = make_sample(7)
    broken = reconstruction(torch.ones(VIEWS, HEIGHT, WIDTH))
    broken.local_points[0, 0, 0, 2] = torch.nan
    sample.pred_reconstruction = broken
    with pytest.raises(ValueError, match=r"scene 'scene0007': `predicted` must be finite.* 1 of 144 pixels"):
        DepthMetric().process(None, [sample.to_dict()])


def test_refuses_another_label_space() -> None:
    sample = make_sample(7)
    sample.set_metainfo({'label_space': 'scannet20'})
    for metric in (ScenePanopticMetric(label_space=SPACE), SemanticIoUMetric(label_space=SPACE)):
        with pytest.raises(ValueError, match="labelled in 'scannet20', the metric expects 'rooms'"):
            metric.process(None, [sample.to_dict()])


def test_refuses_to_score_nothing() -> None:
    for metric in all_metrics():
        with pytest.raises(ValueError, match='no scene was evaluated'):
            metric.evaluate(0)


@pytest.mark.parametrize(
    ('metric', 'arguments', 'message'),
    [
        (ScenePanopticMetric, {'label_space': SPACE, 'protocol': 'pq'}, r"`protocol` .*'pq_scene_mean'.* got 'pq'"),
        (ScenePanopticMetric, {'label_space': SPACE, 'rules': 'cocoo'}, r"`rules` .*'coco'.* got 'cocoo'"),
        (SemanticIoUMetric, {'label_space': SPACE, 'rules': 'coco'}, "`rules` .* got 'coco'"),
        (SemanticIoUMetric, {'label_space': SPACE, 'read_out': 'argmax'}, "`read_out` .* got 'argmax'"),
        (DepthMetric, {'protocol': 'mvd'}, "`protocol` .* got 'mvd'"),
    ],
)
def test_refuses_unknown_choices(metric: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric(**arguments)
