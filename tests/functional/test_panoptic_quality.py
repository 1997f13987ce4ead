"""Panoptic quality against a slow reference, invariants and numbers worked out by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from functools import partial, reduce
from operator import add

import pytest
import torch
from torch import Tensor

from pano3d.functional import compiled_overlap, segment_overlap
from pano3d.functional.label_runs import BLOCK
from pano3d.functional.panoptic_quality import (
    PanopticCounts,
    panoptic_counts,
    panoptic_lifting_counts,
    panoptic_quality,
)
from pano3d.functional.segment_overlap import SegmentOverlap

IS_STUFF = torch.tensor([True, True, False, False, False])
KEYS = ('predicted_category', 'predicted_instance', 'gt_category', 'gt_instance')
Labels = dict[str, Tensor]


def random_labels(seed: int, shape: tuple[int, ...] = (3, 6, 7), max_id: int = 4) -> Labels:
    """Ground truth in blocks with void, and a prediction that agrees with most of it."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int, size: tuple[int, ...]) -> Tensor:
        return torch.randint(low, high, size, generator=generator)

    segment = draw(0, 5, (shape[0], 3, 3)).repeat_interleave(3, 1).repeat_interleave(3, 2)[:, : shape[1], : shape[2]]
    gt_category, gt_instance = draw(-1, 5, (5,))[segment], draw(0, max_id, (5,))[segment]
    changed = draw(0, 9, shape) < (2, 4)[seed % 2]
    return {
        'predicted_category': torch.where(changed, draw(-1, 5, shape), gt_category),
        'predicted_instance': torch.where(changed, draw(0, max_id, shape), gt_instance * 3 + 1),
        'gt_category': gt_category,
        'gt_instance': gt_instance,
    }


def slow_counts(
    labels: Labels, excuse_predicted_void: bool, crowd: frozenset[tuple[int, int]] = frozenset()
) -> dict[int, list[float]]:
    """[TP, FP, FN, IoU sum] per class, with sets of elements, from the words of the definition."""
    segments: dict[str, dict[tuple[int, int], set[int]]] = {'predicted': {}, 'gt': {}}
    void: dict[str, set[int]] = {'predicted': set(), 'gt': set()}
    for side, found in segments.items():
        category = labels[f'{side}_category'].flatten().tolist()
        instance = labels[f'{side}_instance'].flatten().tolist()
        for element, (c, i) in enumerate(zip(category, instance, strict=True)):
            if c < 0:
                void[side].add(element)
            else:
                found.setdefault((c, 0 if IS_STUFF[c] else i), set()).add(element)
    counts = {c: [0, 0, 0, 0.0] for c in range(len(IS_STUFF))}
    matched: set[tuple[str, tuple[int, int]]] = set()
    for g, gt in segments['gt'].items():
        for p, predicted in segments['predicted'].items():
            union = (gt - void['predicted'] if excuse_predicted_void else gt) | (predicted - void['gt'])
            if g[0] == p[0] and g not in crowd and union and len(gt & predicted) / len(union) > 0.5:
                counts[g[0]][0] += 1
                counts[g[0]][3] += len(gt & predicted) / len(union)
                matched |= {('gt', g), ('predicted', p)}
    for p, predicted in segments['predicted'].items():
        last = max((g for g in segments['gt'].keys() & crowd if g[0] == p[0]), default=None)
        excuse = void['gt'] | segments['gt'].get(last, set())
        if ('predicted', p) not in matched and len(predicted & excuse) <= len(predicted) / 2:
            counts[p[0]][1] += 1
    for g, gt in segments['gt'].items():
        excused = excuse_predicted_void and len(gt & void['predicted']) > len(gt) / 2
        if ('gt', g) not in matched and g not in crowd and not excused:
            counts[g[0]][2] += 1
    return counts


def as_rows(counts: PanopticCounts) -> dict[int, list[float]]:
    columns = counts.true_positives, counts.false_positives, counts.false_negatives, counts.iou_sum
    return {c: list(row) for c, row in enumerate(zip(*(column.tolist() for column in columns), strict=True))}


def assert_equal(left: PanopticCounts, right: PanopticCounts) -> None:
    for name in ('true_positives', 'false_positives', 'false_negatives', 'listed'):
        assert torch.equal(getattr(left, name), getattr(right, name)), name
    torch.testing.assert_close(left.iou_sum, right.iou_sum, rtol=0, atol=1e-12)


@pytest.fixture(params=['compiled', 'numpy'])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to count overlaps, whatever is installed."""
    scan = compiled_overlap.scan if request.param == 'compiled' else None
    monkeypatch.setattr(segment_overlap, 'compiled_scan', lambda: scan)
    return request.param


@pytest.mark.parametrize('excuse_predicted_void', [False, True])
def test_counts_equal_slow_reference(engine: str, excuse_predicted_void: bool) -> None:
    total = torch.zeros(3, dtype=torch.int64)
    for seed in range(60):
        labels = random_labels(seed)
        counts = panoptic_counts(**labels, is_stuff=IS_STUFF, excuse_predicted_void=excuse_predicted_void)
        expected = slow_counts(labels, excuse_predicted_void)
        for c, row in as_rows(counts).items():
            assert row == pytest.approx(expected[c], abs=1e-12), f'seed {seed}, class {c}'
        total += torch.stack([counts.true_positives, counts.false_positives, counts.false_negatives]).sum(1)
    assert (total > 15).all(), 'the random maps must exercise every kind of count'


@pytest.mark.parametrize('excuse_predicted_void', [False, True])
def test_crowds_equal_slow_reference(engine: str, excuse_predicted_void: bool) -> None:
    moved = 0
    for seed in range(40):
        labels = random_labels(seed)
        category, instance = labels['gt_category'], labels['gt_instance']
        pairs = set(zip(category.flatten().tolist(), instance.flatten().tolist(), strict=True))
        crowd = frozenset(pair for k, pair in enumerate(sorted(pairs)) if pair[0] >= 2 and (k + seed) % 3)
        marked = torch.stack([(category == c) & (instance == i) for c, i in [*crowd, (-2, 0)]]).any(0)
        choices = {'is_stuff': IS_STUFF, 'excuse_predicted_void': excuse_predicted_void}
        found = as_rows(panoptic_counts(**labels, gt_crowd=marked, **choices))
        expected = slow_counts(labels, excuse_predicted_void, crowd)
        for c, row in found.items():
            assert row == pytest.approx(expected[c], abs=1e-12), f'seed {seed}, class {c}'
        moved += found != as_rows(panoptic_counts(**labels, **choices))
    assert moved > 10, 'the crowds must matter'


def test_crowd_excuses_its_class_in_its_image_only() -> None:
    """Two views of one scene; the same pixels are a crowd in the first and an object in the second."""
    gt = torch.full((2, 2, 4), 2)
    ids = torch.tensor([[[1, 1, 2, 2]] * 2] * 2)
    crowd = torch.zeros_like(gt, dtype=torch.bool)
    crowd[0, :, 2:] = True
    predicted = torch.tensor([[[5, 5, 6, 7]] * 2, [[5, 5, 6, 7]] * 2])  # two halves of object 2: no match
    counts = panoptic_counts(
        predicted_category=gt,
        predicted_instance=predicted,
        gt_category=gt,
        gt_instance=ids,
        is_stuff=IS_STUFF,
        gt_crowd=crowd,
        stacked=True,
    )
    assert as_rows(counts)[2] == [2, 2, 1, 2.0]


def odd_labels(kind: str, seed: int) -> Labels:
    """Maps that evaluators trip over."""
    labels = random_labels(seed)
    p, i, g, j = (labels[key] for key in KEYS)
    void, big = torch.full_like(g, -1), torch.tensor([0, 65535, 65536, 131_071, 2**31, 2**40])
    return (
        labels
        | {
            'nothing predicted': {'predicted_category': void},
            'no ground truth': {'gt_category': void},
            'void everywhere': {'predicted_category': void, 'gt_category': void},
            'one class': {'predicted_category': torch.full_like(p, 2), 'gt_category': torch.full_like(g, 2)},
            'only stuff, split': {'predicted_category': p.clamp(max=1), 'gt_category': g.clamp(max=1)},
            'large ids with gaps': {'predicted_instance': big[i % 6], 'gt_instance': big[j]},
            'ids on void and stuff': {'predicted_instance': i + 100 * (p < 2), 'gt_instance': j + 7 * (g < 2)},
            'one id in several classes': {'predicted_instance': torch.ones_like(i), 'gt_instance': torch.ones_like(j)},
        }[kind]
    )


ODD = (
    'nothing predicted',
    'no ground truth',
    'void everywhere',
    'one class',
    'only stuff, split',
    'large ids with gaps',
    'ids on void and stuff',
    'one id in several classes',
)


@pytest.mark.parametrize('kind', ODD)
def test_counts_of_odd_maps_equal_slow_reference(engine: str, kind: str) -> None:
    for seed in range(4):
        labels = odd_labels(kind, seed)
        for excuse in (False, True):
            counts = panoptic_counts(**labels, is_stuff=IS_STUFF, excuse_predicted_void=excuse)
            for c, row in as_rows(counts).items():
                assert row == pytest.approx(slow_counts(labels, excuse)[c], abs=1e-12), f'seed {seed}, class {c}'


@pytest.mark.parametrize('rules', [panoptic_counts, panoptic_lifting_counts])
def test_ground_truth_fed_back_scores_one(rules: object) -> None:
    for seed in range(10):
        labels = random_labels(seed)
        labels |= {'predicted_category': labels['gt_category'], 'predicted_instance': labels['gt_instance']}
        counts = rules(**labels, is_stuff=IS_STUFF)  # type: ignore[operator]
        scores = panoptic_quality(counts)
        assert torch.equal(scores[:, counts.listed], torch.ones_like(scores[:, counts.listed]))
        assert counts.listed.any()
        assert scores[:, ~counts.listed].isnan().all()


def test_names_of_instances_do_not_matter(engine: str) -> None:
    for seed in range(10):
        labels = random_labels(seed)
        expected = panoptic_counts(**labels, is_stuff=IS_STUFF)
        permutation = torch.tensor([7, 0, 3, 10**12, 5, 1, 2, 4, 6, 8, 9, 2**15, 12])
        renamed = labels | {'predicted_instance': permutation[labels['predicted_instance']]}
        assert_equal(panoptic_counts(**renamed, is_stuff=IS_STUFF), expected)


def test_order_of_views_and_shape_do_not_matter() -> None:
    for seed in range(10):
        labels = random_labels(seed)
        expected = panoptic_counts(**labels, is_stuff=IS_STUFF)
        shuffled = {key: value[[2, 0, 1]] for key, value in labels.items()}
        assert_equal(panoptic_counts(**shuffled, is_stuff=IS_STUFF), expected)
        flat = {key: value.flatten().to(torch.int16) for key, value in labels.items()}
        assert_equal(panoptic_counts(**flat, is_stuff=IS_STUFF), expected)


def test_an_object_must_keep_its_id_over_views() -> None:
    gt = torch.ones(2, 2, 2, dtype=torch.int64)
    labels = {'gt_category': 2 * gt, 'gt_instance': gt, 'predicted_category': 2 * gt}
    other = torch.stack([gt[0], 5 * gt[1]])
    kept = panoptic_counts(**labels, predicted_instance=7 * gt, is_stuff=IS_STUFF)
    broken = panoptic_counts(**labels, predicted_instance=other, is_stuff=IS_STUFF)
    assert as_rows(kept)[2] == [1, 0, 0, 1.0]
    assert as_rows(broken)[2] == [0, 2, 1, 0.0]


def test_iou_of_one_half_is_no_match() -> None:
    one = torch.ones(4, dtype=torch.int64)
    labels = {'gt_category': 2 * one, 'gt_instance': one, 'predicted_instance': one}
    half = panoptic_counts(**labels, predicted_category=torch.tensor([2, 2, -1, -1]), is_stuff=IS_STUFF)
    more = panoptic_counts(**labels, predicted_category=torch.tensor([2, 2, 2, -1]), is_stuff=IS_STUFF)
    assert as_rows(half)[2] == [0, 1, 1, 0.0]
    assert as_rows(more)[2] == [1, 0, 0, 0.75]


def test_scores_by_hand() -> None:
    counts = PanopticCounts(
        true_positives=torch.tensor([2, 0, 0]),
        false_positives=torch.tensor([1, 3, 0]),
        false_negatives=torch.tensor([2, 0, 0]),
        iou_sum=torch.tensor([1.4, 0.0, 0.0], dtype=torch.float64),
        listed=torch.tensor([True, True, False]),
    )
    expected = torch.tensor([[1.4 / 3.5, 0, torch.nan], [0.7, 0, torch.nan], [2 / 3.5, 0, torch.nan]]).double()
    torch.testing.assert_close(panoptic_quality(counts), expected, equal_nan=True, rtol=0, atol=1e-7)
    doubled = counts + counts
    assert as_rows(doubled)[0] == [4, 2, 4, 2.8]
    torch.testing.assert_close(panoptic_quality(doubled), panoptic_quality(counts), equal_nan=True)


def test_prediction_on_void_ground_truth_costs_nothing() -> None:
    for seed in range(10):
        labels = random_labels(seed)
        void = labels['gt_category'] < 0
        empty = labels | {'predicted_category': torch.where(void, -1, labels['predicted_category'])}
        extra = labels | {
            'predicted_category': torch.where(void, 4, labels['predicted_category']),
            'predicted_instance': torch.where(void, 99, labels['predicted_instance']),
        }
        assert_equal(panoptic_counts(**extra, is_stuff=IS_STUFF), panoptic_counts(**empty, is_stuff=IS_STUFF))


def test_absent_classes_count_on_request() -> None:
    labels = dict.fromkeys(KEYS, torch.zeros(3, dtype=torch.int64))
    left_out = panoptic_counts(**labels, is_stuff=IS_STUFF)
    counted = panoptic_counts(**labels, is_stuff=IS_STUFF, absent_classes_count=True)
    assert float(panoptic_quality(left_out)[0].nanmean()) == 1.0
    assert float(panoptic_quality(counted)[0].nanmean()) == 0.2


def test_all_void_is_undefined(engine: str) -> None:
    labels = dict.fromkeys(KEYS, torch.full((3,), -1)) | {
        'predicted_instance': torch.zeros(3, dtype=torch.int64),
        'gt_instance': torch.zeros(3, dtype=torch.int64),
    }
    for rules in (panoptic_counts, panoptic_lifting_counts):
        assert panoptic_quality(rules(**labels, is_stuff=IS_STUFF)).isnan().all()


def test_small_classes_are_dropped_by_the_rules_of_panoptic_lifting(engine: str) -> None:
    gt = torch.zeros(1000, dtype=torch.int64)
    gt[:4] = 2  # 0.4 %
    labels = {'gt_category': gt, 'gt_instance': torch.zeros_like(gt), 'predicted_instance': torch.zeros_like(gt)}
    counts = panoptic_lifting_counts(**labels, predicted_category=torch.zeros_like(gt), is_stuff=IS_STUFF)
    assert counts.listed.tolist() == [True] + 5 * [False]
    assert as_rows(counts)[0] == [1, 0, 0, 1.0]  # the four elements are void on both sides
    kept = panoptic_lifting_counts(
        **labels, predicted_category=torch.zeros_like(gt), is_stuff=IS_STUFF, min_class_share=0.004
    )
    assert as_rows(kept)[0] == [1, 0, 0, 0.996]
    assert as_rows(kept)[2] == [0, 0, 1, 0.0]


def test_inputs_stay_as_they_are() -> None:
    labels = random_labels(0)
    before = {key: value.clone() for key, value in labels.items()}
    for rules in (panoptic_counts, panoptic_lifting_counts):
        rules(**labels, is_stuff=IS_STUFF)
    assert all(torch.equal(labels[key], before[key]) for key in KEYS)


@pytest.mark.parametrize('rules', [panoptic_counts, panoptic_lifting_counts])
@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('predicted_category', torch.full((3, 6, 7), 5), r'`predicted_category` must lie in \[-1, 4\].*got \[5, 5\]'),
        ('gt_category', torch.full((3, 6, 7), -2), r'`gt_category` must lie in \[-1, 4\].*got \[-2, -2\]'),
        ('predicted_instance', torch.full((3, 6, 7), -1), r'`predicted_instance` must not be negative, got -1'),
        ('predicted_category', torch.zeros(3, 6, 8).long(), r'`predicted_category`.*\(3, 6, 7\), got \(3, 6, 8\)'),
    ],
)
def test_refuses(engine: str, rules: object, key: str, value: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rules(**(random_labels(0) | {key: value}), is_stuff=IS_STUFF)  # type: ignore[operator]


@pytest.mark.parametrize('largest_id', [3, 10**9])
@pytest.mark.parametrize(
    'counting',
    [
        panoptic_counts,
        partial(panoptic_counts, excuse_predicted_void=True, absent_classes_count=True, min_size=4),
        panoptic_lifting_counts,
        partial(panoptic_lifting_counts, min_class_share=0.1, void_is_class=False),
    ],
)
def test_stacked_images_are_counted_one_by_one(counting, largest_id):
    generator = torch.Generator().manual_seed(0)
    images, size = 5, BLOCK + 7  # more than one block each
    ids = torch.tensor([1, 2, largest_id])
    category = torch.randint(-1, 4, (2, images, size // 13 + 1), generator=generator).repeat_interleave(13, 2)
    instance = ids[torch.randint(0, 3, (2, images, size // 39 + 1), generator=generator)].repeat_interleave(39, 2)
    category, instance = category[..., :size].clone(), instance[..., :size].clone()
    same = slice(size // 5, None)  # so that some match
    category[0, :, same], instance[0, :, same] = category[1, :, same], instance[1, :, same]
    category[1, 2] = -1  # an image without ground truth
    category[0, 3] = -1  # and one without prediction

    def count(where, **options):
        return counting(
            predicted_category=category[0][where],
            predicted_instance=instance[0][where],
            gt_category=category[1][where],
            gt_instance=instance[1][where],
            is_stuff=torch.tensor([True, False, False, False]),
            **options,
        )

    found, expected = count(slice(None), stacked=True), reduce(add, [count(image) for image in range(images)])
    assert expected.true_positives.sum() > 0
    for field in fields(PanopticCounts):
        torch.testing.assert_close(getattr(found, field.name), getattr(expected, field.name), rtol=1e-12, atol=0)


def test_the_sum_of_iou_is_floating_without_a_match():
    counts = panoptic_counts(**dict.fromkeys(KEYS, torch.zeros(0, dtype=torch.int64)), is_stuff=IS_STUFF)
    assert counts.iou_sum.dtype == torch.float64
    assert not counts.listed.any()


@pytest.mark.parametrize('stacked', [False, True])
@pytest.mark.parametrize('num_segments', [3, 400])
def test_overlaps_equal_those_of_a_dictionary(engine: str, num_segments: int, stacked: bool) -> None:
    generator = torch.Generator().manual_seed(num_segments)
    shape = 3, 20, 31

    def draw(low: int, high: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator)

    labels = {
        'predicted_category': draw(-1, 5),
        'predicted_instance': draw(0, num_segments),
        'gt_category': draw(-1, 5),
        'gt_instance': draw(0, num_segments),
    }
    expected: Counter[tuple[int, ...]] = Counter()
    flat = (labels[key].flatten(1 if stacked else 0).reshape(3 if stacked else 1, -1).tolist() for key in KEYS)
    for image, columns in enumerate(zip(*flat, strict=True)):
        for p, i, g, j in zip(*columns, strict=True):
            names = (0 if c < 0 or IS_STUFF[c] else n for c, n in ((p, i), (g, j)))
            expected[(image, p, g, *names)] += 1

    found = SegmentOverlap.of(**labels, is_stuff=IS_STUFF, stacked=stacked)
    assert found.elements.sum() == draw(0, 1).numel()
    row, column = found.elements.nonzero()
    cells = zip(found.image[row], found.predicted_class[found.image[row], column], found.gt_class[row], strict=True)
    by_class = sorted((*map(int, cell), int(n)) for cell, n in zip(cells, found.elements[row, column], strict=True))
    assert by_class == sorted((*key[:3], n) for key, n in expected.items())
    assert (found.gt_class[found.void_row] == -1).all()
    assert (found.predicted_class[:, 0] == -1).all()
    num_rows = {(key[0], key[2], key[4]) for key in expected} | {(image, -1, 0) for image in range(len(found.void_row))}
    assert len(found.gt_class) == len(num_rows)


def test_compiled_and_numpy_tables_score_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip('numba')
    for seed in range(5):
        labels = random_labels(seed, max_id=(4, 1000, 3000)[seed % 3])
        counts = []
        for scan in (compiled_overlap.compiled_scan(), None):
            monkeypatch.setattr(segment_overlap, 'compiled_scan', lambda scan=scan: scan)
            counts.append(panoptic_counts(**labels, is_stuff=IS_STUFF, stacked=True))
        assert_equal(*counts)


def test_no_images_are_no_segments(engine: str) -> None:
    nothing = dict.fromkeys(KEYS, torch.zeros(0, 4, 5, dtype=torch.int64))
    for rules in (panoptic_counts, panoptic_lifting_counts):
        assert not rules(**nothing, is_stuff=IS_STUFF, stacked=True).listed.any()
