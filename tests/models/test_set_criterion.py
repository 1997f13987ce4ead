"""The set loss against a slow reference, on scenes of several sizes, phases and label spaces."""

from dataclasses import dataclass, replace

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from pano3d.functional.point_sampling import Points
from pano3d.models.criteria import set_criterion
from pano3d.models.criteria.set_criterion import MASK2FORMER_WEIGHTS, PAPER_WEIGHTS, SetCriterion
from pano3d.models.queries import QueryPrediction
from pano3d.structures import PanopticMap

CLASSES, QUERIES, VIEWS, HEIGHT, WIDTH, RATIO = 4, 6, 3, 4, 6, 3


@dataclass
class Case:
    """Predictions and truth of a batch, and the points where they are compared."""

    stages: list[QueryPrediction]
    targets: list[PanopticMap]
    labelled: list[tuple[int, ...] | None] | None = None

    def leaves(self) -> list[Tensor]:
        return [tensor for stage in self.stages for tensor in (stage.classes, stage.masks)]


def reference(case: Case, weights: dict, matching: Points, loss: list[Points], no_object: float = 0.1) -> dict:
    """The three terms; `matching` has a set of points per scene, `loss[stage]` one per matched pair."""
    total = dict.fromkeys(weights, 0.0)
    for prediction, points in zip(case.stages, loss, strict=True):
        class_sum = class_weight = 0.0
        pair_number = num_masks = 0
        for b, target in enumerate(case.targets):
            segments = segments_of_scene(target)
            num_masks += len(segments)
            phases = class_phases(prediction.classes[b])
            queries = phases[0].shape[0]
            cost = torch.zeros(queries, len(segments))
            for q in range(queries):
                for s, (label, _) in enumerate(segments):
                    logit, truth = compare(prediction, target, b, q, segments[s], matching.pixel[b], matching.offset[b])
                    bce, dice = mask_terms(logit, truth)
                    score = sum(log_softmax(p[q], labelled_of(case, b)).exp()[label] for p in phases) / len(phases)
                    cost[q, s] = -weights['class'] * score + weights['mask'] * bce + weights['dice'] * dice
            rows, columns = linear_sum_assignment(cost.detach().numpy())
            labels = [-1] * queries
            for q, s in zip(rows, columns, strict=True):
                labels[q] = segments[s][0]
                at = points.pixel[pair_number], points.offset[pair_number]
                bce, dice = mask_terms(*compare(prediction, target, b, q, segments[s], *at))
                total['mask'] = total['mask'] + bce
                total['dice'] = total['dice'] + dice
                pair_number += 1
            for q, label in enumerate(labels):
                weight = no_object if label == -1 else 1.0
                for phase in phases:
                    class_sum = class_sum - weight * log_softmax(phase[q], labelled_of(case, b))[label]
                    class_weight += weight
        assert pair_number == len(points.pixel)
        total['class'] = total['class'] + class_sum / class_weight
    for name in ('dice', 'mask'):
        total[name] = total[name] / max(num_masks, 1)
    return {name: weights[name] * total[name] for name in weights}


def segments_of_scene(target: PanopticMap) -> list[tuple[int, int]]:
    pairs = zip(target.category.flatten().tolist(), target.instance.flatten().tolist(), strict=True)
    return sorted({pair for pair in pairs if pair[0] >= 0})


def class_phases(classes: Tensor) -> list[Tensor]:
    return [classes] if classes.ndim == 2 else list(classes)


def labelled_of(case: Case, scene: int) -> tuple[int, ...] | None:
    return None if case.labelled is None else case.labelled[scene]


def log_softmax(logits: Tensor, labelled: tuple[int, ...] | None) -> Tensor:
    """As if the model had the labelled classes only; index -1 is 'no object'."""
    present = [*(range(len(logits) - 1) if labelled is None else labelled), len(logits) - 1]
    full = logits.new_full((len(logits),), -torch.inf).clone()
    full[present] = logits[present].log_softmax(-1)
    return full


def mask_terms(logit: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    p = logit.sigmoid()
    bce = -(truth * F.logsigmoid(logit) + (1 - truth) * F.logsigmoid(-logit)).mean()
    return bce, 1 - (2 * (p * truth).sum() + 1) / (p.sum() + truth.sum() + 1)


def compare(
    prediction: QueryPrediction,
    target: PanopticMap,
    scene: int,
    query: int,
    segment: tuple[int, int],
    pixel: Tensor,
    offset: Tensor,
) -> tuple[Tensor, Tensor]:
    """Mask logits and truth at points, every view cut out to its own size first."""
    views, height, width = target.shape
    mask_height, mask_width = prediction.masks.shape[-2:]
    logits, truths = [], []
    for view in range(views):
        here = (pixel // (height * width)) == scene * views + view
        rows, columns = (mask_height, mask_width)
        if prediction.extents is not None:
            rows, columns = prediction.extents[scene, view].tolist()
        own_height, own_width = rows * height // mask_height, columns * width // mask_width
        mask = prediction.masks[scene, query, view, :rows, :columns]
        row, column = pixel[here] // width % height, pixel[here] % width
        assert (row < own_height).all() and (column < own_width).all()
        x = (column + offset[here, 0]) / own_width
        y = (row + offset[here, 1]) / own_height
        grid = torch.stack([2 * x - 1, 2 * y - 1], -1)[None, None]
        value = F.grid_sample(mask[None, None], grid, padding_mode='border', align_corners=False)
        logits.append(value[0, 0, 0])
        inside = (target.category[view] == segment[0]) & (target.instance[view] == segment[1])
        assert (target.category[view][row, column] >= 0).all()
        truths.append(inside[row, column].float())
    assert sum(map(len, logits)) == len(pixel)
    return torch.cat(logits), torch.cat(truths)


def random_case(
    seed: int,
    *,
    scenes: int = 2,
    queries: int = QUERIES,
    stages: int = 1,
    phases: int | None = None,
    mixed: bool = False,
    void_views: bool = False,
    empty_scene: bool = False,
) -> Case:
    """Random masks and labels; things are the classes from 2 on."""
    generator = torch.Generator().manual_seed(seed)
    extents = None
    if mixed:
        extents = torch.stack(
            [torch.randint(1, size + 1, (scenes, VIEWS), generator=generator) for size in (HEIGHT, WIDTH)], dim=-1
        )
    shape = (scenes, *([] if phases is None else [phases]), queries, CLASSES + 1)
    predictions = [
        QueryPrediction(
            torch.randn(shape, generator=generator).requires_grad_(),
            (2 * torch.randn(scenes, queries, VIEWS, HEIGHT, WIDTH, generator=generator)).requires_grad_(),
            extents,
        )
        for _ in range(stages)
    ]
    size = (scenes, VIEWS, HEIGHT * RATIO, WIDTH * RATIO)
    category = torch.randint(-1, CLASSES, size, generator=generator)
    if mixed:
        for b in range(scenes):
            for v in range(VIEWS):
                category[b, v, extents[b, v, 0] * RATIO :] = -1
                category[b, v, :, extents[b, v, 1] * RATIO :] = -1
    if void_views:
        category[:, 1] = -1
    if empty_scene:
        category[0] = -1
    instance = torch.where(category >= 2, torch.randint(1, 3, size, generator=generator), 0)
    return Case(predictions, [PanopticMap(c, i) for c, i in zip(category, instance, strict=True)])


@pytest.fixture
def drawn(monkeypatch) -> dict:
    """The points of the next forward pass: those of the matching, and those of the loss stage by stage."""
    record: dict = {'matching': [], 'loss': []}
    sample_all, points = set_criterion.sample_all, SetCriterion._points

    def record_matching(masks, at, extents):
        record['matching'].append(at)
        return sample_all(masks, at, extents)

    def record_loss(*arguments):
        record['loss'].append(points(*arguments))
        return record['loss'][-1]

    monkeypatch.setattr(set_criterion, 'sample_all', record_matching)
    monkeypatch.setattr(SetCriterion, '_points', record_loss)
    return record


def compare_with_reference(case: Case, drawn: dict, **options) -> None:
    weights = options.setdefault('weights', PAPER_WEIGHTS)
    found = SetCriterion(num_points=20, **options)(case.stages, case.targets, case.labelled)
    expected = reference(case, weights, drawn['matching'][0], drawn['loss'])
    for name in weights:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)
    found_gradient = torch.autograd.grad(sum(found.values()), case.leaves())
    expected_gradient = torch.autograd.grad(sum(expected.values()), case.leaves())
    torch.testing.assert_close(found_gradient, expected_gradient, rtol=1e-3, atol=1e-5)


POINTS = [{}, {'points_per_view': True}, {'shared_points': True}, {'points_per_view': True, 'shared_points': True}]
SCENES = [
    {},
    {'mixed': True},
    {'phases': 2},
    {'void_views': True, 'stages': 3},
    {'empty_scene': True},
    {'queries': 3},
    {'mixed': True, 'phases': 2, 'void_views': True, 'empty_scene': True, 'stages': 2, 'scenes': 3},
]


@pytest.mark.parametrize(
    ('scenes', 'points'),
    [(scenes, {}) for scenes in SCENES] + [(scenes, points) for scenes in SCENES[-1:] for points in POINTS[1:]],
    ids=lambda options: '+'.join(options) or 'default',
)
def test_values_and_gradients_equal_the_slow_reference(drawn, scenes, points):
    compare_with_reference(random_case(len(scenes), **scenes), drawn, **points)


@pytest.mark.parametrize('seed', range(2))
def test_the_preset_of_mask2former_equals_the_slow_reference(drawn, seed):
    compare_with_reference(random_case(seed), drawn, weights=MASK2FORMER_WEIGHTS, importance=0.0)


def labelled_case(**options) -> Case:
    """The first scene knows classes 0 and 2 only, the others all."""
    case = random_case(5, **options)
    category = torch.where(case.targets[0].category % 2 == 1, -1, case.targets[0].category)
    first = PanopticMap(category, torch.where(category < 0, 0, case.targets[0].instance))
    return replace(case, targets=[first, *case.targets[1:]], labelled=[(0, 2), None])


@pytest.mark.parametrize('options', [{}, {'phases': 2}], ids=['one phase', 'two phases'])
def test_classes_without_labels_equal_the_slow_reference_and_get_no_gradient(drawn, options):
    case = labelled_case(**options)
    compare_with_reference(case, drawn)
    losses = SetCriterion(num_points=8)(case.stages, case.targets, case.labelled)
    gradient = torch.autograd.grad(sum(losses.values()), case.stages[0].classes)[0]
    assert (gradient[0][..., [1, 3]] == 0).all()
    assert (gradient[0][..., [0, 2, 4]] != 0).all()
    assert (gradient[1] != 0).all()


def test_all_classes_labelled_changes_nothing():
    case = random_case(0)
    expected = seeded_loss(case)
    for labelled in ([None, None], [range(CLASSES), None]):
        torch.testing.assert_close(seeded_loss(replace(case, labelled=labelled)), expected)


def seeded_loss(case: Case, **options) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return SetCriterion(num_points=50, **options)(case.stages, case.targets, case.labelled)


@pytest.mark.parametrize('points', POINTS, ids=lambda options: '+'.join(options) or 'default')
def test_a_larger_canvas_changes_nothing(points):
    case = random_case(2, mixed=True)
    [stage] = case.stages
    larger = QueryPrediction(stage.classes, F.pad(stage.masks, (0, 2, 0, 3), value=torch.nan), stage.extents)
    targets = [
        PanopticMap(
            F.pad(target.category, (0, 2 * RATIO, 0, 3 * RATIO), value=-1),
            F.pad(target.instance, (0, 2 * RATIO, 0, 3 * RATIO)),
        )
        for target in case.targets
    ]
    found = seeded_loss(Case([larger], targets), **points)
    expected = seeded_loss(case, **points)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(sum(terms.values()), stage.masks)[0] for terms in (found, expected)]
    torch.testing.assert_close(*gradients)
    beside = torch.ones(*stage.masks.shape, dtype=torch.bool)
    for b in range(2):
        for v in range(VIEWS):
            beside[b, :, v, : stage.extents[b, v, 0], : stage.extents[b, v, 1]] = False
    assert beside.any() and gradients[0][beside].abs().max() == 0


def test_two_phases_that_agree_are_one():
    case = random_case(1)
    [stage] = case.stages
    twice = QueryPrediction(stage.classes[:, None].expand(-1, 2, -1, -1), stage.masks)
    torch.testing.assert_close(seeded_loss(replace(case, stages=[twice])), seeded_loss(case))


def test_every_stage_counts(drawn):
    case = random_case(3, stages=2)
    compare_with_reference(case, drawn)
    assert len(drawn['loss']) == 2 and not torch.equal(drawn['loss'][0].pixel, drawn['loss'][1].pixel)


def test_truth_fed_back_costs_next_to_nothing():
    [target] = random_case(0, scenes=1).targets
    segments = segments_of_scene(target)
    classes = torch.full((1, len(segments) + 2, CLASSES + 1), -20.0)
    classes[..., -1] = 20.0
    masks = torch.full((1, len(segments) + 2, *target.shape), -20.0)
    for q, (label, number) in enumerate(segments):
        classes[0, q, [label, CLASSES]] = torch.tensor([20.0, -20.0])
        masks[0, q][(target.category == label) & (target.instance == number)] = 20.0
    upsampled = F.interpolate(masks[0], scale_factor=8, mode='nearest')[None]
    losses = SetCriterion(num_points=4000, importance=0.0)([QueryPrediction(classes, upsampled)], [target])
    assert losses['class'] < 1e-6
    assert losses['mask'] < 0.3  # points on the bilinear rim of the masks
    assert losses['dice'] < 0.1


@pytest.mark.parametrize('points', POINTS, ids=lambda options: '+'.join(options) or 'default')
def test_scenes_without_segments_teach_no_object_only(points):
    case = random_case(0)
    void = torch.full_like(case.targets[0].category, -1)
    case = replace(case, targets=[PanopticMap(void, torch.zeros_like(void))] * 2)
    losses = seeded_loss(case, **points)
    [stage] = case.stages
    expected = -PAPER_WEIGHTS['class'] * stage.classes.log_softmax(-1)[..., -1].mean()
    torch.testing.assert_close(losses['class'], expected)
    assert losses['mask'] == losses['dice'] == 0
    assert torch.autograd.grad(sum(losses.values()), stage.masks)[0].abs().sum() == 0


def test_more_segments_than_queries_is_said_once_with_the_counts(monkeypatch):
    messages = []
    monkeypatch.setattr(set_criterion, 'print_log', lambda message, **_: messages.append(message))
    case = random_case(0, queries=2)
    criterion = SetCriterion(num_points=8)
    for _ in range(2):
        criterion(case.stages, case.targets)
    most = max(len(segments_of_scene(target)) for target in case.targets)
    assert len(messages) == 1
    assert f'{most} segments but there are 2 queries' in messages[0]


def test_contradictions_are_refused_by_name():
    case = labelled_case(mixed=True)
    criterion = SetCriterion(num_points=8)
    first, second = case.targets
    wrong = PanopticMap(torch.where(first.category < 0, -1, 7), first.instance)
    with pytest.raises(ValueError, match='category 7, but the model knows 4 classes'):
        criterion(case.stages, [wrong, second])
    with pytest.raises(ValueError, match=r'categories \[1, 3\], which `labelled_classes` lacks'):
        criterion(case.stages, random_case(5, mixed=True).targets, case.labelled)
    with pytest.raises(ValueError, match='2 targets but 1 lists'):
        criterion(case.stages, case.targets, [(0, 1, 2, 3)])
    with pytest.raises(ValueError, match='2 predicted scenes but 1 targets'):
        criterion(case.stages, case.targets[:1])
    with pytest.raises(ValueError, match='labels beside the views'):
        criterion(case.stages, random_case(5).targets)
    with pytest.raises(ValueError, match='must name the terms'):
        SetCriterion(weights={'class': 1.0, 'dise': 1.0, 'mask': 1.0})
    with pytest.raises(ValueError, match='`oversample` at least'):
        SetCriterion(oversample=0.5)
