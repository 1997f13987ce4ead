"""The metric of merged instances: counts pooled over scenes, undefined values, stored states."""

import math

import pytest
import torch

from pano3d.evaluation import MergedInstanceMetric
from pano3d.evaluation.state_file import read_state, write_state
from pano3d.structures import LabelSpace, PanopticMap, SceneSample

SPACE = LabelSpace(
    name='rooms',
    names=('wall', 'chair'),
    source_ids=(1, 2),
    source_key='id',
    stuff=frozenset({'wall'}),
)
KEY = 'rooms/merged_instances/pixels'


def sample(truth: list[int], predicted: list[int]) -> dict:
    """A scene of one view and one row; 0 is wall, -1 void, other numbers are chairs."""
    maps = []
    for numbers in (truth, predicted):
        value = torch.tensor(numbers).view(1, 1, -1)
        maps.append(PanopticMap(value.sign(), value.clamp(min=0)))
    scene = SceneSample(metainfo=dict(scene_id='a', label_space='rooms'))
    scene.gt_panoptic, scene.pred_panoptic = maps
    return scene.to_dict()


def evaluate(*samples: dict) -> dict[str, float]:
    metric = MergedInstanceMetric(label_space=SPACE)
    metric.process(None, samples)
    return metric.evaluate(len(samples))


def test_counts_are_pooled_over_scenes():
    merged = sample([0, 1, 1, 2, 2], [0, 5, 5, 5, 5])  # 2 of 2 merged
    apart = sample([1, 2, 3, 4, -1], [1, 2, 3, 0, 3])  # 3 of 4 covered
    scores = evaluate(merged, apart)
    assert scores == pytest.approx({f'{KEY}/merged': 2 / 6, f'{KEY}/covered': 5 / 6, f'{KEY}/merged_of_covered': 2 / 5})


def test_undefined_without_instances():
    assert all(math.isnan(value) for value in evaluate(sample([0, 0, -1], [0, 1, 1])).values())
    empty = evaluate(sample([1, 2], [0, 0]))
    assert empty[f'{KEY}/merged'] == empty[f'{KEY}/covered'] == 0
    assert math.isnan(empty[f'{KEY}/merged_of_covered'])


def test_states_can_be_stored(tmp_path):
    state = MergedInstanceMetric(label_space=SPACE).scene_state(sample([1, 1, 2], [4, 4, 4]))
    write_state(tmp_path / 'state.npz', state)
    assert read_state(tmp_path / 'state.npz') == state


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match='major_part'):
        MergedInstanceMetric(label_space=SPACE, major_part=-0.1)
    scene = sample([1, 2], [1, 2])
    scene['pred_panoptic'] = scene['pred_panoptic'][..., :1]
    with pytest.raises(ValueError, match=r"scene 'a'.*size of `gt_panoptic`"):
        evaluate(scene)
