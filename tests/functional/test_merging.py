"""Read-outs on hand-made queries, and against loops over pixels and queries."""

import pytest
import torch
from torch.nn import functional as F

from pano3d.functional.merging import (
    SceneMasks,
    merge_by_overlap,
    owned_labels,
    owned_segments,
    semantic_probabilities,
    winner_takes_all,
)

IS_STUFF = torch.tensor([True, False, False])  # wall, chair, table
ON, OFF = 8.0, -8.0


def logits(*labels: int) -> torch.Tensor:
    """Sure queries: class 0..2, or 3 for 'no object'."""
    return 12.0 * torch.eye(4)[list(labels)]


def masks(*rows: str, views_per_chunk: int = 1) -> SceneMasks:
    """One row of pixels per query, '#' is on: 2 views of 1 row, half of the pixels each."""
    values = torch.tensor([[ON if c == '#' else OFF for c in row] for row in rows])
    return SceneMasks(values.unflatten(1, (2, 1, -1)), (1, values.shape[1] // 2), views_per_chunk)


def brighter(scene_masks: SceneMasks, query: int, pixels: slice) -> None:
    scene_masks.logits[query].view(-1)[pixels] += 1


def merged(classes: torch.Tensor, scene_masks: SceneMasks, **options) -> tuple[list[int], list[int]]:
    options = {'score_threshold': 0.5, 'overlap_threshold': 0.8} | options
    owner = merge_by_overlap(classes, scene_masks, IS_STUFF, **options)
    category, instance = owned_labels(owner, classes, IS_STUFF)
    return category.flatten().tolist(), instance.flatten().tolist()


@pytest.mark.parametrize('policy', ['winner', 'overlap'])
def test_perfect_queries_give_the_scene_back(policy):
    classes, scene_masks = logits(0, 1, 1), masks('##....', '..##..', '....##')
    if policy == 'winner':
        owner = winner_takes_all(classes, scene_masks)
    else:
        owner = merge_by_overlap(classes, scene_masks, IS_STUFF, score_threshold=0.8, overlap_threshold=0.8)
    category, instance = owned_labels(owner, classes, IS_STUFF)
    assert category.flatten().tolist() == [0, 0, 1, 1, 1, 1]
    assert instance.flatten().tolist() == [0, 0, 2, 2, 3, 3]


def test_queries_of_one_stuff_class_are_one_segment_even_if_they_share_their_mask():
    # Each wall query holds half of its own mask only: judged alone, both would be dropped.
    scene_masks = masks('####', '####')
    brighter(scene_masks, 0, slice(0, 2))
    brighter(scene_masks, 1, slice(2, 4))
    assert merged(logits(0, 0), scene_masks) == ([0, 0, 0, 0], [0, 0, 0, 0])


def test_things_of_one_class_are_judged_alone():
    scene_masks = masks('####', '####')
    brighter(scene_masks, 0, slice(0, 2))
    brighter(scene_masks, 1, slice(2, 4))
    assert merged(logits(1, 1), scene_masks) == ([-1, -1, -1, -1], [0, 0, 0, 0])


def test_a_thing_that_keeps_too_little_of_its_mask_over_all_views_is_dropped():
    # In the second view the chair holds all it has: only both views together tell.
    scene_masks = masks('#####.#...', '.####.....')
    brighter(scene_masks, 1, slice(0, 5))
    assert merged(logits(1, 2), scene_masks)[0] == [-1, 2, 2, 2, 2, -1, -1, -1, -1, -1]


def test_pixels_of_dropped_queries_go_to_the_next_best_if_wanted():
    # The table leaves the chair too little, the chair leaves the wall nothing: without the chair the wall comes forth.
    scene_masks = masks('######..', '..######', '###.....')
    scene_masks.logits[1] += 1
    scene_masks.logits[2] -= 1
    classes = logits(1, 2, 0)
    assert merged(classes, scene_masks, overlap_threshold=0.5)[0] == [-1, -1, 2, 2, 2, 2, 2, 2]
    assert merged(classes, scene_masks, overlap_threshold=0.5, iterations=2)[0] == [0, 0, 2, 2, 2, 2, 2, 2]
    assert merged(classes, scene_masks, overlap_threshold=0.7, iterations=3)[0] == [-1, -1, 2, 2, 2, 2, 2, 2]


def test_unsure_and_empty_queries_leave_void():
    classes = torch.cat([logits(3), torch.zeros(1, 4)])
    assert merged(classes, masks('##', '##')) == ([-1, -1], [0, 0])
    assert merged(logits(1), masks('....')) == ([-1] * 4, [0] * 4)


def test_a_pixel_where_the_best_mask_is_off_stays_void():
    assert merged(logits(1), masks('##..'))[0] == [1, 1, -1, -1]


def random_scene(seed: int, views_per_chunk: int, *, mixed: bool = False) -> tuple[torch.Tensor, SceneMasks]:
    """9 unsure queries over 5 views, several of them of one class."""
    generator = torch.Generator().manual_seed(seed)
    classes = 3 * torch.randn(9, 4, generator=generator)
    coarse = 4 * torch.randn(9, 5, 2, 3, generator=generator)
    extents = torch.tensor([[2, 3], [1, 3], [2, 1], [2, 2], [1, 1]]) if mixed else None
    return classes, SceneMasks(coarse, (4, 6), views_per_chunk, extents)


def full_masks(scene_masks: SceneMasks) -> torch.Tensor:
    """Probabilities (K, V, H, W), view by view; 0 beside a view."""
    found = torch.zeros(*scene_masks.logits.shape[:2], *scene_masks.size)
    for v in range(found.shape[1]):
        rows, columns = (2, 3) if scene_masks.extents is None else scene_masks.extents[v].tolist()
        own = F.interpolate(
            scene_masks.logits[:, v : v + 1, :rows, :columns], (2 * rows, 2 * columns), mode='bilinear'
        ).sigmoid()
        found[:, v, : 2 * rows, : 2 * columns] = own[:, 0]
    return found


def slow_merge(classes, probability, *, score_threshold, overlap_threshold, mask_threshold, iterations):
    """`merge_by_overlap` with a loop over rounds, pixels, queries and segments."""
    scores = classes.softmax(-1)
    alive = [q for q in range(9) if scores[q].argmax() < 3 and scores[q].max() >= score_threshold]
    pixels = probability.flatten(1)
    for _ in range(iterations):
        owner = []
        for p in range(pixels.shape[1]):
            best = max(alive, key=lambda q, p=p: float(scores[q].max() * pixels[q, p]), default=-1)
            owner.append(best if best >= 0 and pixels[best, p] >= mask_threshold else -1)
        dropped = set()
        for q in alive:
            label = int(scores[q].argmax())
            same = [r for r in alive if r == q or (IS_STUFF[label] and int(scores[r].argmax()) == label)]
            area = sum(any(pixels[r, p] >= mask_threshold for r in same) for p in range(len(owner)))
            kept = sum(o in same for o in owner)
            if 0 < kept < overlap_threshold * area:
                dropped.add(q)
        owner = [-1 if o in dropped else o for o in owner]
        alive = [q for q in alive if q not in dropped]
    return torch.tensor(owner, dtype=torch.int32).view(probability.shape[1:])


@pytest.mark.parametrize('mixed', [False, True])
@pytest.mark.parametrize('iterations', [1, 2, 4])
def test_merging_equals_the_slow_one_for_any_number_of_views_at_a_time(iterations, mixed):
    options = {'score_threshold': 0.4, 'overlap_threshold': 0.6, 'mask_threshold': 0.4, 'iterations': iterations}
    dropped = 0
    for seed in range(5):
        classes, scene_masks = random_scene(seed, 5, mixed=mixed)
        probability = full_masks(scene_masks)
        expected = slow_merge(classes, probability, **options)
        for views_per_chunk in (1, 2, 7):
            _, chunked = random_scene(seed, views_per_chunk, mixed=mixed)
            assert torch.equal(merge_by_overlap(classes, chunked, IS_STUFF, **options), expected)
        first = slow_merge(classes, probability, **options | {'iterations': 1})
        dropped += int((expected != first).sum())
    assert (dropped > 0) == (iterations > 1)


@pytest.mark.parametrize('mixed', [False, True])
@pytest.mark.parametrize('views_per_chunk', [1, 2, 5])
def test_winner_takes_all_equals_a_loop_over_pixels(views_per_chunk, mixed):
    classes, scene_masks = random_scene(3, views_per_chunk, mixed=mixed)
    owner = winner_takes_all(classes, scene_masks)
    probability = full_masks(scene_masks)
    score = classes.softmax(-1)[:, :3].max(-1).values
    for v in range(5):
        for y in range(4):
            for x in range(6):
                value = [float(score[q] * probability[q, v, y, x]) for q in range(9)]
                assert owner[v, y, x] == value.index(max(value))


def test_marginal_is_the_sum_over_queries_of_class_times_mask():
    classes, scene_masks = random_scene(0, 2)
    found = torch.cat([semantic_probabilities(classes, probability) for probability in scene_masks], 1)
    expected = torch.zeros(3, 5, 4, 6)
    for k in range(9):
        for c in range(3):
            expected[c] += classes[k].softmax(-1)[c] * full_masks(scene_masks)[k]
    torch.testing.assert_close(found, expected)


def test_segments_are_the_pairs_that_occur_with_the_best_score_of_their_queries():
    generator = torch.Generator().manual_seed(0)
    classes = 3 * torch.randn(9, 4, generator=generator)
    owner = torch.randint(-1, 6, (2, 3, 4), generator=generator).int()
    category, instance = owned_labels(owner, classes, IS_STUFF)
    probability = classes.softmax(-1)[:, :3]
    expected: dict[tuple[int, int], float] = {}
    for o, c, i in zip(owner.flatten().tolist(), category.flatten().tolist(), instance.flatten().tolist(), strict=True):
        if o < 0:
            assert (c, i) == (-1, 0)
            continue
        assert (c, i) == (int(probability[o].argmax()), 0 if c == 0 else o + 1)
        expected[c, i] = max(expected.get((c, i), 0.0), float(probability[o].max()))
    found = [column.tolist() for column in owned_segments(owner, classes, IS_STUFF)]
    assert list(zip(found[0], found[1], strict=True)) == sorted(expected)
    assert found[2] == [expected[pair] for pair in sorted(expected)]


def test_a_scene_of_void_has_no_segments():
    owner = torch.full((2, 3, 4), -1, dtype=torch.int32)
    assert [len(column) for column in owned_segments(owner, logits(0, 1), IS_STUFF)] == [0, 0, 0]
