"""Scenes measured one by one: scores of all, of each, and what is said of those that cannot be measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from mmengine.structures import BaseDataElement

from pano3d.evaluation.confusion_metric import ConfusionCounter
from pano3d.evaluation.protocol_metric import ProtocolMetric, required
from pano3d.evaluation.scene_results import WHOLE_SCENE, SceneResult, measure_scene, scene_scores, summarize_scenes
from pano3d.structures import LabelSpace, PanopticMap, SceneSample

SPACE = LabelSpace('rooms', ('wall', 'floor', 'chair'), (1, 2, 3), 'id', frozenset({'wall', 'floor'}))


class Mean(ProtocolMetric):
    """Mean of one number per scene; refuses negative ones, and has a column that is nowhere defined."""

    def __init__(self, field: str, prefix: str = 'rooms/miou/pixels') -> None:
        self.field = field
        super().__init__(prefix=prefix, collect_device='cpu')

    def scene_state(self, sample: Mapping[str, Any]) -> float:
        value = required(sample, self.field, float)
        if value < 0:
            raise ValueError(f'`{self.field}` must not be negative, got {value}')
        return value

    def summarize(self, states: list[float]) -> dict[str, float]:
        return {'mIoU': sum(states) / len(states), 'mAcc': math.nan}


def scene(name: str, **values: float) -> BaseDataElement:
    return BaseDataElement(metainfo={'scene_id': name}, **values)


@pytest.fixture
def metrics() -> list[ProtocolMetric]:
    return [Mean('a'), Mean('b', 'depth'), Mean('c', 'other')]


@pytest.fixture
def results(metrics) -> list[SceneResult]:
    scenes = [scene('s0', a=0.5, b=0.25), scene('s1', a=0.25, b=-1.0), scene('s2', a=0.75)]
    return [
        *(measure_scene(sample, metrics) for sample in scenes),
        SceneResult('s3', failed={WHOLE_SCENE: 'the file is damaged'}, note='odd'),
    ]


def test_a_metric_is_the_mean_of_the_scenes_that_have_it(results, metrics):
    summary = summarize_scenes(results, metrics)
    assert {key: value for key, value in summary.metrics.items() if key.endswith('mIoU')} == {
        'rooms/miou/pixels/mIoU': 0.5,
        'depth/mIoU': 0.25,
    }
    assert summary.counted == {'rooms/miou/pixels': 3, 'depth': 1, 'other': 0}
    assert summary.num_scenes == 4 and summary.scene_ids == ['s0', 's1', 's2', 's3']
    assert list(summary.missing) == ['depth', 'other'] and 'expected `b`' in summary.missing['depth']
    assert list(summary.not_applicable) == ['other'] and 'expected `c`' in summary.not_applicable['other']
    assert summary.failed.keys() == {'s1', 's3'}
    assert "depth: scene 's1': `b` must not be negative" in summary.failed['s1']['depth']
    assert summary.notes == {'s3': 'odd'}
    assert summary.as_json()['metrics']['depth/mAcc'] is None


def test_scenes_are_ranked_worst_first(results, metrics):
    summary = summarize_scenes(results, metrics)
    assert summary.ranked_by == 'rooms/miou/pixels/mIoU'
    assert list(summary.scenes.items()) == [('s1', 0.25), ('s0', 0.5), ('s2', 0.75)]
    assert scene_scores(results, metrics[1:]) == {}


def test_undefined_scores_are_ranked_last(metrics):
    results = [SceneResult(f's{i}', {'rooms/miou/pixels': [v]}) for i, v in enumerate((math.nan, 0.5, 0.25))]
    assert list(scene_scores(results, metrics)) == ['s2', 's1', 's0']


def test_measuring_leaves_nothing_in_the_metrics(results, metrics):
    assert all(not metric.results for metric in metrics)


def test_without_any_success_the_first_reason_is_given(metrics):
    with pytest.raises(ValueError, match='no scene was evaluated'):
        summarize_scenes([], metrics)
    with pytest.raises(ValueError, match=r'none of the 1 scenes could be evaluated; s3: damaged'):
        summarize_scenes([SceneResult('s3', failed={WHOLE_SCENE: 'damaged'})], metrics)


def test_confusion_is_that_of_all_scenes():
    counter = ConfusionCounter(label_space=SPACE)
    generator = torch.Generator().manual_seed(0)
    expected = torch.zeros(4, 4, dtype=torch.int64)
    states = []
    for number in range(3):
        gt, predicted = torch.randint(-1, 3, (2, 2, 3, 4), generator=generator)
        sample = SceneSample(metainfo={'scene_id': str(number), 'label_space': 'rooms'})
        sample.gt_panoptic = PanopticMap(gt, torch.zeros_like(gt))
        hot = torch.nn.functional.one_hot(predicted + 1, 4)[..., 1:]  # void has no probability at all
        sample.pred_semantic = hot.movedim(-1, 1).float()
        states += measure_scene(sample, [counter]).states[counter.prefix]
        for true, found in zip(gt.flatten().tolist(), predicted.flatten().tolist(), strict=True):
            expected[true, found] += 1  # -1 is the last row and column
    assert torch.equal(counter.matrix(states), expected)
    assert expected[-1].any() and expected[:, -1].any()
