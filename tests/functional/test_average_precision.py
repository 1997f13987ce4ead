"""AP against the rules written down plainly, against pycocotools, and numbers worked out by hand."""

from __future__ import annotations

import math
import sys
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.cocoeval import COCOeval

from pano3d.functional.average_precision import (
    SCANNET_THRESHOLDS,
    InstanceMatches,
    average_precision,
    interpolated_average_precision,
    point_instance_matches,
)

IS_STUFF = torch.tensor([True, False, False])
SMALL = 10


def make_scene(seed: int, *, points: int = 300, masks: int = 25, levels: int = 6) -> dict[str, Any]:
    """Instances side by side, masks that are parts, unions and shifts of them; few scores, so that they tie."""
    random = np.random.default_rng(seed)
    borders = np.sort(random.choice(np.arange(1, points), 14, replace=False))
    piece = np.searchsorted(borders, np.arange(points), side='right')
    category = random.integers(-1, 3, 15)[piece]
    instance = np.where(category > 0, random.permutation(15)[piece] // 2 + 1, 0)
    found = np.zeros((masks, points), bool)
    for mask in found:
        start = random.choice([0, *borders]) + random.integers(-4, 5)
        mask[max(start, 0) : max(start, 0) + random.integers(1, 60)] = True
    return {
        'masks': torch.from_numpy(found),
        'category': torch.from_numpy(random.integers(-1, 3, masks)),
        'score': torch.from_numpy(random.integers(0, levels, masks) / levels),
        'gt_category': torch.from_numpy(category),
        'gt_instance': torch.from_numpy(instance),
    }


def match(scene: dict[str, Any], **choices: Any) -> InstanceMatches:
    return point_instance_matches(**scene, **{'is_stuff': IS_STUFF, 'min_points': SMALL, **choices})


def plain_entries(
    scene: dict[str, Any], label: int, threshold: float
) -> tuple[list[tuple[float, bool]], int, int, int]:
    """(score, right) of the counted masks of a class, missed instances, instances, masks: the rules word for word."""
    masks, gt_category, gt_instance = (scene[k].numpy() for k in ('masks', 'gt_category', 'gt_instance'))
    background = gt_category < 1  # void, and wall of class 0
    instances = {
        i: (gt_category == label) & (gt_instance == i) for i in np.unique(gt_instance[gt_category == label]).tolist()
    }
    mine = [k for k in range(len(masks)) if scene['category'][k] == label and masks[k].sum() >= SMALL]

    def passes(k: int, i: int) -> bool:
        shared = (masks[k] & instances[i]).sum()
        return shared / (masks[k].sum() + instances[i].sum() - shared) > threshold

    entries: list[tuple[float, bool]] = []
    missed, used = 0, set()
    for i in sorted(instances):
        if instances[i].sum() < SMALL:
            continue
        best = None
        for k in mine:
            if k in used or not passes(k, i):
                continue
            score = float(scene['score'][k])
            if best is None:
                best = score
                used.add(k)
            else:
                entries.append((min(best, score), False))
                best = max(best, score)
        if best is None:
            missed += 1
        else:
            entries.append((best, True))
    for k in mine:
        if not any(passes(k, i) for i in instances):
            excused = (masks[k] & background).sum()
            excused += sum((masks[k] & mask).sum() for mask in instances.values() if mask.sum() < SMALL)
            if excused / masks[k].sum() <= threshold:
                entries.append((float(scene['score'][k]), False))
    return entries, missed, sum(mask.sum() >= SMALL for mask in instances.values()), len(mine)


def plain_average_precision(scenes: list[dict[str, Any]], label: int, threshold: float) -> float:
    results = [plain_entries(scene, label, threshold) for scene in scenes]
    entries = [entry for result in results for entry in result[0]]
    missed = sum(result[1] for result in results)
    if not sum(result[2] for result in results):
        return math.nan
    points = []
    for cut in sorted({score for score, _ in entries}):
        right = sum(r for score, r in entries if score >= cut)
        wrong = sum(not r for score, r in entries if score >= cut)
        points.append((right / (right + wrong), right / (sum(r for _, r in entries) + missed)))
    precision, recall = zip(*points, (1.0, 0.0), strict=True)
    steps = np.convolve([recall[0], *recall, 0.0], [-0.5, 0, 0.5], 'valid')
    return float(np.dot(precision, steps))


@pytest.mark.parametrize('seed', range(6))
def test_scannet_precision_equals_the_plain_rules(seed: int) -> None:
    scenes = [make_scene(10 * seed + j) for j in range(3)]
    values = average_precision(reduce(add, [match(scene) for scene in scenes]))
    for c in range(3):
        for t, threshold in enumerate(SCANNET_THRESHOLDS):
            expected = math.nan if IS_STUFF[c] else plain_average_precision(scenes, c, threshold)
            assert float(values[c, t]) == pytest.approx(expected, abs=1e-12, nan_ok=True), (c, threshold)


def on_thresholds(seed: int) -> dict[str, Any]:
    """Instances of 20 points and masks whose IoU is 1/4, 1/3, 1/2, 3/5, 3/4, 4/5, 9/10 and so on, to the bit."""
    random = np.random.default_rng(seed)
    category, instance, masks = np.full(320, -1), np.zeros(320, int), []
    for start in range(0, 320, 40):
        category[start : start + 20], instance[start : start + 20] = random.integers(1, 3), start + 1
        inner = random.choice([5, 10, 12, 15, 16, 18])
        spans = (0, inner), (20 - inner, 40 - inner), (10, 30), (0, 40), (20 - SMALL + 1, 20)
        masks += [(np.arange(320) >= start + a) & (np.arange(320) < start + b) for a, b in spans]
    return {
        'masks': torch.from_numpy(np.stack(masks)),
        'category': torch.from_numpy(random.integers(1, 3, len(masks))),
        'score': torch.from_numpy(random.integers(0, 5, len(masks)) / 5),
        'gt_category': torch.from_numpy(category),
        'gt_instance': torch.from_numpy(instance),
    }


def odd_scene(kind: str, seed: int) -> dict[str, Any]:
    """Scenes that evaluators trip over."""
    scene = on_thresholds(seed) if kind == 'IoU on thresholds' else make_scene(seed)
    ids = torch.tensor([0, 2**40, 65535, 65536, 70000, 3, 131_071, 2**31])
    half = scene['masks'][: len(scene['masks']) // 2]
    return (
        scene
        | {
            'IoU on thresholds': {},
            'one class': {'gt_category': scene['gt_category'].clamp(max=1)},
            'large ids with gaps': {'gt_instance': ids[scene['gt_instance'] % 8]},
            'no instance': {'gt_category': scene['gt_category'].clamp(max=0)},
            'all void': {'gt_category': torch.full_like(scene['gt_category'], -1)},
            'empty masks': {'masks': scene['masks'] & (torch.arange(len(scene['masks'])) % 3 > 0)[:, None]},
            'duplicates': {'masks': torch.cat([half, half, half[:1]]), 'score': scene['score'] * 0 + 0.5},
        }[kind]
    )


@pytest.mark.parametrize('min_points', [1, SMALL])
@pytest.mark.parametrize(
    'kind',
    [
        'IoU on thresholds',
        'one class',
        'large ids with gaps',
        'no instance',
        'all void',
        'empty masks',
        'duplicates',
    ],
)
def test_odd_scenes_equal_the_plain_rules(kind: str, min_points: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], 'SMALL', min_points)
    scenes = [odd_scene(kind, seed) for seed in range(3)]
    values = average_precision(reduce(add, [match(scene, min_points=min_points) for scene in scenes]))
    for c in (1, 2):
        for t, threshold in enumerate(SCANNET_THRESHOLDS):
            expected = plain_average_precision(scenes, c, threshold)
            assert float(values[c, t]) == pytest.approx(expected, abs=1e-12, nan_ok=True), (c, threshold)
    assert values.isnan().all() == (kind in ('no instance', 'all void'))


def test_precision_by_hand() -> None:
    # Two instances of ten points, and three masks: right, wrong, right with the lowest score.
    scene = {
        'masks': torch.eye(3, dtype=torch.bool).repeat_interleave(10, dim=1)[[0, 2, 1]],
        'category': torch.tensor([1, 1, 1]),
        'score': torch.tensor([0.9, 0.8, 0.7]),
        'gt_category': torch.tensor([1, 1, 2]).repeat_interleave(10),
        'gt_instance': torch.tensor([1, 2, 3]).repeat_interleave(10),
    }
    values = average_precision(match(scene))
    # precision 1, 1, 1/2, 2/3 at recall 0, 1/2, 1/2, 1; each times half the difference of the recalls around it
    expected = (1 * 1 / 2 + 1 * 1 / 2 + 1 / 2 * 1 / 2 + 2 / 3 * 1 / 2) / 2
    assert float(values[1, 0]) == pytest.approx(expected, abs=1e-15)
    assert float(values[2, 0]) == 0.0
    assert values[0].isnan().all()
    # interpolated: precision 1 up to recall 0.5, 2/3 above
    assert float(interpolated_average_precision(match(scene))[1, 0]) == pytest.approx(
        (51 + 50 * 2 / 3) / 101, abs=1e-15
    )


def test_ground_truth_fed_back_scores_exactly_one() -> None:
    scene = make_scene(3)
    key = scene['gt_category'] * 100 + scene['gt_instance']
    keys = key[scene['gt_category'] > 0].unique()
    scene |= {
        'masks': key == keys[:, None],
        'category': keys // 100,
        'score': torch.linspace(0.9, 0.3, len(keys)),
    }
    for values in (average_precision(match(scene)), interpolated_average_precision(match(scene))):
        assert values[1:].eq(1.0).all()


def test_nothing_found_scores_zero_and_nothing_there_is_undefined() -> None:
    scene = make_scene(0, masks=0)
    assert average_precision(match(scene))[1:].eq(0.0).all()
    assert interpolated_average_precision(match(scene))[1:].eq(0.0).all()
    scene = make_scene(0)
    scene['gt_category'] = torch.full_like(scene['gt_category'], -1)
    assert average_precision(match(scene)).isnan().all()


def test_a_class_whose_masks_are_all_excused_scores_as_one_chooses() -> None:
    scene = {
        'masks': torch.arange(40)[None] >= 20,
        'category': torch.tensor([1]),
        'score': torch.tensor([0.5]),
        'gt_category': torch.tensor([1] * 20 + [-1] * 20),
        'gt_instance': torch.tensor([1] * 20 + [0] * 20),
    }
    assert average_precision(match(scene))[1].eq(0.0).all()
    assert average_precision(match(scene), all_excused=math.nan)[1].isnan().all()


def test_masks_points_and_ids_may_be_permuted() -> None:
    scene = make_scene(5, levels=1000)
    generator = torch.Generator().manual_seed(0)
    masks, points = torch.randperm(25, generator=generator), torch.randperm(300, generator=generator)
    permuted = {
        'masks': scene['masks'][masks][:, points],
        'category': scene['category'][masks],
        'score': scene['score'][masks],
        'gt_category': scene['gt_category'][points],
        'gt_instance': torch.where(scene['gt_instance'] > 0, 900 - scene['gt_instance'], 0)[points],
    }
    above_half = slice(0, len(SCANNET_THRESHOLDS) - 1)  # below, the order of the masks matters by the rules
    found, expected = (average_precision(match(s))[:, above_half] for s in (permuted, scene))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12, equal_nan=True)


def test_scenes_add_up_in_any_order_and_grouping() -> None:
    states = [match(make_scene(seed)) for seed in range(4)]
    expected = average_precision(states[0] + states[1] + states[2] + states[3])
    other = average_precision((states[3] + states[1]) + (states[0] + states[2]))
    assert torch.equal(other.nan_to_num(-1), expected.nan_to_num(-1))
    interpolated = interpolated_average_precision(states[0] + states[1] + states[2] + states[3])
    again = interpolated_average_precision((states[3] + states[1]) + (states[0] + states[2]))
    assert torch.equal(again.nan_to_num(-1), interpolated.nan_to_num(-1))


def test_interpolated_precision_equals_pycocotools() -> None:
    """With distinct scores; where scores tie, pycocotools depends on the order of the images."""
    generator = torch.Generator().manual_seed(2)
    count, thresholds, total = 60, 10, 37
    right = torch.rand(count, thresholds, generator=generator) < 0.4
    ignored = torch.rand(count, thresholds, generator=generator) < 0.2
    score = torch.rand(count, generator=generator, dtype=torch.float64)
    matches = InstanceMatches(
        category=torch.ones(count, dtype=torch.int64),
        score=score,
        true_positives=(right & ~ignored).to(torch.uint8),
        false_positives=(~right & ~ignored).to(torch.uint8),
        missed=torch.zeros(2, thresholds, dtype=torch.int64),
        instances=torch.tensor([0, total]),
    )
    evaluator = COCOeval(iouType='segm')
    evaluator.params.imgIds, evaluator.params.catIds, evaluator.params.maxDets = [0], [1], [count]
    evaluator.params.areaRng, evaluator.params.areaRngLbl = [[0, 1e10]], ['all']
    order = score.argsort(descending=True)
    result = {'dtScores': score[order].tolist(), 'gtIgnore': np.zeros(total)}
    result |= {'dtMatches': right[order].T.numpy(), 'dtIgnore': ignored[order].T.numpy()}
    evaluator.evalImgs, evaluator._paramsEval = [result], evaluator.params
    evaluator.accumulate()
    expected = torch.from_numpy(evaluator.eval['precision'][:, :, 0, 0, 0]).mean(1)
    torch.testing.assert_close(interpolated_average_precision(matches)[1], expected, rtol=0, atol=1e-12)


def test_masks_of_one_score_enter_together() -> None:
    scene = make_scene(1, levels=1)
    order = torch.arange(24, -1, -1)
    turned = {**scene, **{name: scene[name][order] for name in ('masks', 'category', 'score')}}
    for read in (average_precision, interpolated_average_precision):
        found, expected = (read(match(s))[1:, :-1] for s in (turned, scene))
        assert torch.equal(found, expected)
        assert 0 < float(expected.mean()) < 1


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'masks': torch.zeros(25, 299, dtype=torch.bool)}, r'size of `gt_category`, \(300,\), got .* \(25, 299\)'),
        ({'masks': torch.zeros(25, 300)}, 'must be bool.* got torch.float32'),
        ({'category': torch.full((25,), 3)}, r'`category` must lie in \[-1, 2\] for 3 classes, got \[3, 3\]'),
        ({'gt_category': torch.full((300,), -2)}, r'`gt_category` must lie in \[-1, 2\]'),
        ({'gt_instance': torch.full((300,), -1)}, '`gt_instance` must not be negative, got -1'),
        ({'gt_instance': torch.zeros(3).long()}, r'`gt_instance` must have shape \(300,\), got \(3,\)'),
        ({'score': torch.full((25,), torch.nan)}, '`score` must be finite; it is not for 25 of 25 masks'),
        ({'score': torch.zeros(24)}, r'`score` must have shape \(25,\), got \(24,\)'),
        ({'gt_category': torch.zeros(30, 10).long()}, r'`gt_category` must have shape \(N,\), got \(30, 10\)'),
    ],
)
def test_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        match({**make_scene(0), **change})
