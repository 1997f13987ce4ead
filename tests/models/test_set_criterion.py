"""The set loss against a slow reference that loops over scenes, queries and points."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from pano3d.functional.segments import segments_of
from pano3d.models.criteria import set_criterion
from pano3d.models.criteria.set_criterion import MASK2FORMER_WEIGHTS, PAPER_WEIGHTS, SetCriterion
from pano3d.models.query_decoder import QueryPrediction
from pano3d.structures import PanopticMap

CLASSES, QUERIES, VIEWS, HEIGHT, WIDTH = 4, 6, 2, 3, 4


def all_pixels(count, num_points, views, *, device=None):
    """In place of random points: every pixel centre once."""
    view, row, column = torch.meshgrid(
        *(torch.arange(size, dtype=torch.float32) for size in (VIEWS, HEIGHT, WIDTH)), indexing='ij'
    )
    points = torch.stack([(column + 0.5) / WIDTH, (row + 0.5) / HEIGHT, view], dim=-1)
    return points.view(1, -1, 3).expand(count, -1, -1)


@pytest.fixture
def exact_points(monkeypatch):
    monkeypatch.setattr(set_criterion, 'uniform_points', all_pixels)
    monkeypatch.setattr(
        set_criterion, 'uncertain_points', lambda masks, n, oversample, importance: all_pixels(len(masks), n, VIEWS)
    )


def random_scenes(scenes: int, *, seed: int = 0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randn(scenes, QUERIES, CLASSES + 1, generator=generator, dtype=dtype)
    masks = 2 * torch.randn(scenes, QUERIES, VIEWS, HEIGHT, WIDTH, generator=generator, dtype=dtype)
    category = torch.randint(-1, CLASSES, (scenes, VIEWS, HEIGHT, WIDTH), generator=generator)
    instance = torch.where(category >= 2, torch.randint(1, 3, category.shape, generator=generator), 0)
    targets = [PanopticMap(c, i) for c, i in zip(category, instance, strict=True)]
    return QueryPrediction(classes.requires_grad_(), masks.requires_grad_()), targets


def reference(prediction: QueryPrediction, targets: list[PanopticMap], weights: dict, no_object: float = 0.1):
    """Class, dice and mask term, written the slow way."""
    total = dict.fromkeys(weights, 0.0)
    class_sum = class_weight = 0.0
    num_masks = 0
    for b, target in enumerate(targets):
        pairs = sorted(
            {(int(c), int(i)) for c, i in zip(target.category.flatten(), target.instance.flatten(), strict=True)}
        )
        segments = [pair for pair in pairs if pair[0] >= 0]
        num_masks += len(segments)
        known = target.category >= 0
        terms = {}
        cost = torch.zeros(QUERIES, len(segments))
        for q in range(QUERIES):
            logit = prediction.masks[b, q][known]
            p = logit.sigmoid()
            for s, (label, number) in enumerate(segments):
                t = ((target.category == label) & (target.instance == number))[known].to(p)
                bce = -(t * p.log() + (1 - t) * (1 - p).log()).mean()
                dice = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
                terms[q, s] = dice, bce
                score = prediction.classes[b, q].softmax(-1)[label]
                cost[q, s] = -weights['class'] * score + weights['mask'] * bce + weights['dice'] * dice
        rows, columns = linear_sum_assignment(cost.detach().numpy())
        labels = [CLASSES] * QUERIES
        for q, s in zip(rows, columns, strict=True):
            labels[q] = segments[s][0]
            total['dice'] = total['dice'] + terms[q, s][0]
            total['mask'] = total['mask'] + terms[q, s][1]
        for q, label in enumerate(labels):
            weight = no_object if label == CLASSES else 1.0
            class_sum = class_sum - weight * prediction.classes[b, q].log_softmax(-1)[label]
            class_weight += weight
    total['class'] = class_sum / class_weight
    for name in ('dice', 'mask'):
        total[name] = total[name] / max(num_masks, 1)
    return {name: weights[name] * total[name] for name in weights}


@pytest.mark.parametrize('weights', [PAPER_WEIGHTS, MASK2FORMER_WEIGHTS])
@pytest.mark.parametrize('seed', range(3))
def test_values_and_gradients_equal_the_slow_reference(exact_points, weights, seed):
    prediction, targets = random_scenes(2, seed=seed)
    found = SetCriterion(weights=weights)([prediction], targets)
    expected = reference(prediction, targets, weights)
    for name in weights:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)
    leaves = (prediction.classes, prediction.masks)
    found_gradient = torch.autograd.grad(sum(found.values()), leaves)
    expected_gradient = torch.autograd.grad(sum(expected.values()), leaves)
    torch.testing.assert_close(found_gradient, expected_gradient, rtol=1e-3, atol=1e-5)


def test_every_stage_counts(exact_points):
    first, targets = random_scenes(1, seed=0)
    second, _ = random_scenes(1, seed=1)
    criterion = SetCriterion()
    both = criterion([first, second], targets)
    apart = [criterion([stage], targets) for stage in (first, second)]
    for name in both:
        torch.testing.assert_close(both[name], apart[0][name] + apart[1][name])


def test_void_pixels_change_nothing(exact_points):
    prediction, targets = random_scenes(1)
    before = SetCriterion()([prediction], targets)
    void = targets[0].category < 0
    assert void.any()
    changed = QueryPrediction(prediction.classes, prediction.masks + 50.0 * void)
    after = SetCriterion()([changed], targets)
    for name in before:
        torch.testing.assert_close(before[name], after[name])


def test_truth_fed_back_costs_next_to_nothing():
    _, targets = random_scenes(1)
    pairs = {
        (int(c), int(i)) for c, i in zip(*map(torch.flatten, (targets[0].category, targets[0].instance)), strict=True)
    }
    segments = sorted(pair for pair in pairs if pair[0] >= 0)
    classes = torch.full((1, len(segments) + 2, CLASSES + 1), -20.0)
    masks = torch.full((1, len(segments) + 2, VIEWS, HEIGHT, WIDTH), -20.0)
    classes[..., -1] = 20.0
    for q, (label, number) in enumerate(segments):
        classes[0, q, [label, CLASSES]] = torch.tensor([20.0, -20.0])
        masks[0, q][(targets[0].category == label) & (targets[0].instance == number)] = 20.0
    upsampled = torch.nn.functional.interpolate(masks[0], scale_factor=8, mode='nearest')[None]
    losses = SetCriterion(num_points=4000)([QueryPrediction(classes, upsampled)], targets)
    assert losses['class'] < 1e-6
    assert losses['mask'] < 0.5  # points on the bilinear rim of the masks
    assert losses['dice'] < 0.1


def test_a_scene_without_segments_teaches_no_object_only():
    prediction, _ = random_scenes(1)
    void = torch.full((VIEWS, HEIGHT, WIDTH), -1)
    losses = SetCriterion(num_points=8)([prediction], [PanopticMap(void, torch.zeros_like(void))])
    expected = -PAPER_WEIGHTS['class'] * prediction.classes.log_softmax(-1)[..., -1].mean()
    torch.testing.assert_close(losses['class'], expected)
    assert losses['mask'] == losses['dice'] == 0
    assert torch.autograd.grad(sum(losses.values()), prediction.masks)[0].abs().sum() == 0


def test_more_segments_than_queries_is_said_once_with_the_counts(exact_points, monkeypatch):
    messages = []
    monkeypatch.setattr(set_criterion, 'print_log', lambda message, **_: messages.append(message))
    prediction, targets = random_scenes(1)
    few = QueryPrediction(prediction.classes[:, :2], prediction.masks[:, :2])
    criterion = SetCriterion()
    for _ in range(2):
        assert all(torch.isfinite(value) for value in criterion([few], targets).values())
    segments = len(segments_of(targets[0].category, targets[0].instance)[0])
    assert len(messages) == 1
    assert f'{segments} segments but there are 2 queries' in messages[0]


def test_a_category_outside_the_label_space_is_refused():
    prediction, targets = random_scenes(1)
    wrong = PanopticMap(torch.full_like(targets[0].category, 7), targets[0].instance)
    with pytest.raises(ValueError, match='category 7, but the model knows 4 classes'):
        SetCriterion(num_points=8)([prediction], [wrong])


def test_weights_must_name_the_three_terms():
    with pytest.raises(ValueError, match='must name the terms'):
        SetCriterion(weights={'class': 1.0, 'dise': 1.0, 'mask': 1.0})


def labelled_scenes():
    """Two scenes; the first knows classes 0 and 2 only, the second all."""
    prediction, targets = random_scenes(2)
    category = torch.where(targets[0].category % 2 == 1, -1, targets[0].category)
    return prediction, [PanopticMap(category, torch.where(category < 0, 0, targets[0].instance)), targets[1]]


def test_classes_without_labels_take_no_part(exact_points):
    """The loss of a scene equals that of a model that never had its unlabelled classes."""
    prediction, targets = labelled_scenes()
    first = QueryPrediction(prediction.classes[:1], prediction.masks[:1])
    small = QueryPrediction(prediction.classes[:1, :, [0, 2, 4]], prediction.masks[:1])
    renamed = PanopticMap(torch.where(targets[0].category == 2, 1, targets[0].category), targets[0].instance)
    found = SetCriterion()([first], targets[:1], [(0, 2)])
    expected = SetCriterion()([small], [renamed])
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


def test_only_their_logits_get_no_gradient(exact_points):
    prediction, targets = labelled_scenes()
    losses = SetCriterion()([prediction], targets, [(0, 2), None])
    gradient = torch.autograd.grad(sum(losses.values()), prediction.classes)[0]
    assert (gradient[0][:, [1, 3]] == 0).all()
    assert (gradient[0][:, [0, 2, 4]] != 0).all()
    assert (gradient[1] != 0).all()


def test_all_classes_labelled_changes_nothing(exact_points):
    prediction, targets = random_scenes(2)
    expected = SetCriterion()([prediction], targets)
    for labelled in ([None, None], [range(CLASSES), None]):
        found = SetCriterion()([prediction], targets, labelled)
        for name in expected:
            torch.testing.assert_close(found[name], expected[name])


def test_a_label_that_should_not_be_there_is_refused():
    prediction, targets = random_scenes(2)
    with pytest.raises(ValueError, match=r'categories \[1, 3\], which `labelled_classes` lacks'):
        SetCriterion(num_points=8)([prediction], targets, [(0, 2), None])
    with pytest.raises(ValueError, match='2 targets but 1 lists'):
        SetCriterion(num_points=8)([prediction], targets, [(0, 1, 2, 3)])
