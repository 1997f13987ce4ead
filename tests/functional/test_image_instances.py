"""Instances of views against pycocotools on all views at once, and cases worked out by hand."""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pano3d.functional.average_precision import InstanceMatches, interpolated_average_precision
from pano3d.functional.image_instances import image_instance_matches

IS_STUFF = torch.tensor([True, False, False])
SIZE = 24, 32


def make_view(seed: int) -> dict[str, Any]:
    """Boxes as instances, with a strip of void; masks are shifted boxes that overlap."""
    random = np.random.default_rng(seed)
    category, instance = np.zeros(SIZE, int), np.zeros(SIZE, int)
    boxes = []
    for i in range(6):
        y, x, h, w = random.integers(0, 16), random.integers(0, 22), random.integers(4, 9), random.integers(4, 11)
        boxes.append((y, x, h, w, random.integers(1, 3)))
        category[y : y + h, x : x + w], instance[y : y + h, x : x + w] = boxes[-1][-1], i + 1
    category[:, :3], instance[:, :3] = -1, 0
    masks, labels = np.zeros((9, *SIZE), bool), []
    for mask in masks:
        y, x, h, w, label = boxes[random.integers(0, 6)]
        y, x = max(y + random.integers(-1, 2), 0), max(x + random.integers(-1, 2), 0)
        mask[y : y + h, x : x + w] = True
        labels.append(label if random.random() < 0.9 else 0)
    return {
        'masks': torch.from_numpy(masks),
        'category': torch.tensor(labels),
        'score': torch.from_numpy(random.random(9)),
        'gt_category': torch.from_numpy(category),
        'gt_instance': torch.from_numpy(instance),
    }


def match(view: dict[str, Any], **choices: Any) -> InstanceMatches:
    return image_instance_matches(**view, is_stuff=IS_STUFF, **choices)


def annotation(number: int, image: int, label: int, mask: torch.Tensor, **more: Any) -> dict[str, Any]:
    code = coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
    area = float(coco_mask.area(code))
    known = {'id': number, 'image_id': image, 'category_id': label, 'segmentation': code, 'area': area, 'iscrowd': 0}
    return known | more


def by_pycocotools(views: list[dict[str, Any]], *, void_is_crowd: bool, max_masks: int = 100) -> np.ndarray:
    """AP of classes 1 and 2 at the ten thresholds, (2, 10)."""
    truth: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image, view in enumerate(views):
        for label in (1, 2):
            for i in view['gt_instance'][view['gt_category'] == label].unique().tolist():
                region = (view['gt_category'] == label) & (view['gt_instance'] == i)
                truth.append(annotation(len(truth) + 1, image, label, region))
            if void_is_crowd:
                truth.append(annotation(len(truth) + 1, image, label, view['gt_category'] < 0, iscrowd=1))
        for mask, label, score in zip(view['masks'], view['category'].tolist(), view['score'].tolist(), strict=True):
            if label and mask.any():
                found.append(annotation(len(found) + 1, image, label, mask, score=score))
    indexed = []
    for listed in (truth, found):
        indexed.append(COCO())
        indexed[-1].dataset = {
            'images': [{'id': image, 'height': SIZE[0], 'width': SIZE[1]} for image in range(len(views))],
            'categories': [{'id': 1}, {'id': 2}],
            'annotations': listed,
        }
        indexed[-1].createIndex()
    evaluator = COCOeval(*indexed, 'segm')
    evaluator.params.maxDets = [max_masks]
    evaluator.evaluate()
    evaluator.accumulate()
    precision = evaluator.eval['precision'][:, :, :, 0, -1].mean(1).T
    return np.where(precision < 0, np.nan, precision)  # -1: no instance


@pytest.mark.parametrize('void_is_crowd', [True, False])
def test_views_add_up_to_what_pycocotools_says(void_is_crowd: bool) -> None:
    views = [make_view(seed) for seed in range(6)]
    states = [match(view, void_is_crowd=void_is_crowd) for view in views]
    values = interpolated_average_precision(reduce(add, states))
    expected = by_pycocotools(views, void_is_crowd=void_is_crowd)
    np.testing.assert_allclose(values[1:].numpy(), expected, rtol=0, atol=1e-9)
    assert 0.05 < expected.mean() < 0.95
    assert values[0].isnan().all()


def halves(view: dict[str, Any]) -> dict[str, Any]:
    """Three masks of IoU 1/2 with the two instances, and nothing else."""
    category, masks = torch.zeros(SIZE, dtype=torch.int64), torch.zeros(9, *SIZE, dtype=torch.bool)
    category[4:8, 4:12], category[12:16, 4:12] = 1, 2
    masks[0, 4:8, 4:8], masks[1, 4:8, 4:20], masks[2, 12:16, 4:20] = True, True, True
    labels = torch.tensor([1, 1, 2, 1, 1, 1, 2, 2, 2])
    return {**view, 'masks': masks, 'category': labels, 'gt_category': category, 'gt_instance': category * 7}


@pytest.mark.parametrize('void_is_crowd', [True, False])
@pytest.mark.parametrize('kind', ['IoU of 1/2', 'large ids', 'duplicates', 'empty masks', 'all void', 'views without'])
def test_odd_views_equal_pycocotools(kind: str, void_is_crowd: bool) -> None:
    ids = torch.tensor([0, 2**40, 65535, 65536, 131_071, 2**31, 3])
    views = []
    for seed in range(4):
        view = make_view(seed)
        view |= {
            'IoU of 1/2': halves(view),
            'large ids': {'gt_instance': ids[view['gt_instance']]},
            'duplicates': {'masks': view['masks'][[0, 0, 0, 3, 3, 3, 6, 6, 6]]},
            'empty masks': {'masks': view['masks'] & (torch.arange(9) % 2 > 0)[:, None, None]},
            'all void': {'gt_category': torch.full(SIZE, -1)},
            'views without': {'gt_category': view['gt_category'] * (seed % 2)},
        }[kind]
        views.append(view)
    states = [match(view, void_is_crowd=void_is_crowd) for view in views]
    values = interpolated_average_precision(reduce(add, states))
    expected = by_pycocotools(views, void_is_crowd=void_is_crowd)
    np.testing.assert_allclose(values[1:].numpy(), expected, rtol=0, atol=1e-9)
    assert np.isnan(expected).all() == (kind == 'all void')


def test_only_the_best_masks_of_a_class_count() -> None:
    views = [make_view(seed) for seed in range(4)]
    found, every = (
        interpolated_average_precision(reduce(add, [match(view, max_masks=most) for view in views]))[1:].numpy()
        for most in (1, 100)
    )
    np.testing.assert_allclose(found, by_pycocotools(views, void_is_crowd=True, max_masks=1), rtol=0, atol=1e-9)
    assert (found != every).any()


def test_masks_pixels_and_ids_may_be_permuted() -> None:
    view = make_view(2)
    generator = torch.Generator().manual_seed(0)
    masks, columns = torch.randperm(9, generator=generator), torch.randperm(SIZE[1], generator=generator)
    turned = {
        'masks': view['masks'][masks][..., columns],
        'category': view['category'][masks],
        'score': view['score'][masks],
        'gt_category': view['gt_category'][:, columns],
        'gt_instance': torch.where(view['gt_instance'] > 0, 900 - view['gt_instance'], 0)[:, columns],
    }
    for void_is_crowd in (True, False):
        found, expected = (
            interpolated_average_precision(match(v, void_is_crowd=void_is_crowd))[1:] for v in (turned, view)
        )
        assert torch.equal(found, expected)
        assert 0 < float(expected.mean()) < 1


def test_void_excuses_a_mask_only_as_a_crowd() -> None:
    category = torch.zeros(SIZE, dtype=torch.int64)
    category[:, :16] = -1
    category[:4, 20:24] = 1
    masks = torch.zeros(2, *SIZE, dtype=torch.bool)
    masks[0, :4, 20:24] = True
    masks[1, 10:20, 2:12] = True
    view = {'masks': masks, 'category': torch.tensor([1, 1]), 'score': torch.tensor([0.5, 0.9])}
    view |= {'gt_category': category, 'gt_instance': (category == 1).long()}
    assert interpolated_average_precision(match(view))[1].eq(1.0).all()
    expected = torch.full((10,), 0.5, dtype=torch.float64)
    torch.testing.assert_close(interpolated_average_precision(match(view, void_is_crowd=False))[1], expected)


def test_ground_truth_fed_back_scores_exactly_one() -> None:
    view = make_view(1)
    ids = view['gt_instance'].unique()[1:]
    masks = view['gt_instance'] == ids[:, None, None]
    labels = torch.stack([view['gt_category'][mask][0] for mask in masks])
    view |= {'masks': masks, 'category': labels, 'score': torch.ones(len(ids))}
    assert interpolated_average_precision(match(view))[1:].eq(1.0).all()


def test_an_empty_view_leaves_nothing() -> None:
    void = torch.full(SIZE, -1)
    nothing = {'masks': torch.zeros(0, *SIZE, dtype=torch.bool), 'category': torch.zeros(0).long()}
    matches = match({**nothing, 'score': torch.zeros(0), 'gt_category': void, 'gt_instance': void * 0})
    assert len(matches.score) == 0
    assert matches.true_positives.shape == (0, 10)
    assert matches.instances.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'masks': torch.zeros(9, 24, 31, dtype=torch.bool)}, r'\(24, 32\), got .* \(9, 24, 31\)'),
        ({'gt_category': torch.zeros(5).long()}, r'`gt_category` must have shape \(H, W\), got \(5,\)'),
        ({'score': torch.full((9,), torch.inf)}, '`score` must be finite'),
    ],
)
def test_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        match({**make_view(0), **change})
