"""Read-outs as modules: what they fill in, chunks of views, views of several sizes, parts apart in space."""

import pytest
import torch

from pano3d.functional.merging import SceneMasks, semantic_probabilities
from pano3d.models.queries import QueryPrediction
from pano3d.models.readout import ConnectedReadOut, OverlapReadOut, WinnerTakesAllReadOut
from pano3d.structures import LabelSpace, Reconstruction, SceneSample

SPACE = LabelSpace.load('scannet20')
QUERIES, VIEWS, SIZE = 8, 5, (8, 12)


def prediction(*, mixed: bool = False) -> QueryPrediction:
    """Unsure queries of few classes, so that some share a class, stuff or not."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.full((QUERIES, 21), -9.0)
    classes[:, [0, 1, 4, 20]] = 2 * torch.randn(QUERIES, 4, generator=generator)
    masks = 4 * torch.randn(QUERIES, VIEWS, 4, 6, generator=generator)
    extents = torch.tensor([[4, 6], [3, 6], [4, 2], [2, 3], [1, 1]]) if mixed else None
    return QueryPrediction(classes, masks, extents)


def read(readout, given: QueryPrediction) -> SceneSample:
    sample = SceneSample(metainfo={'scene_id': 'a'})
    result = readout(given, SIZE, SPACE, sample)
    assert 'pred_panoptic' not in sample
    return result


READOUTS = [
    (WinnerTakesAllReadOut, {}),
    (OverlapReadOut, {'score_threshold': 0.3, 'overlap_threshold': 0.5, 'iterations': 2}),
]


@pytest.mark.parametrize('mixed', [False, True])
@pytest.mark.parametrize(('readout', 'options'), READOUTS)
def test_the_number_of_views_at_a_time_changes_nothing(readout, options, mixed):
    given = prediction(mixed=mixed)
    whole = read(readout(views_per_chunk=VIEWS, **options), given)
    for views_per_chunk in (1, 2, 100):
        found = read(readout(views_per_chunk=views_per_chunk, offload='cpu', **options), given)
        assert torch.equal(found.pred_panoptic.category, whole.pred_panoptic.category)
        assert torch.equal(found.pred_panoptic.instance, whole.pred_panoptic.instance)
        assert torch.equal(found.pred_semantic, whole.pred_semantic)
        assert found.pred_segments == whole.pred_segments


@pytest.mark.parametrize('mixed', [False, True])
@pytest.mark.parametrize(('readout', 'options'), READOUTS)
def test_segments_are_the_pairs_in_the_map_and_stuff_is_one_over_all_queries(readout, options, mixed):
    result = read(readout(**options), prediction(mixed=mixed))
    category, instance = result.pred_panoptic.category.flatten(), result.pred_panoptic.instance.flatten()
    pairs = set(zip(category.tolist(), instance.tolist(), strict=True)) - {(-1, 0)}
    found = [(segment['category'], segment['instance']) for segment in result.pred_segments]
    assert found == sorted(pairs) and {0, 4} & set(category.tolist())
    for label, number in pairs:
        assert (number == 0) == bool(SPACE.is_stuff[label])
    assert all(0 < segment['score'] <= 1 for segment in result.pred_segments)


def test_probabilities_are_the_marginal_in_half_precision():
    given = prediction()
    result = read(WinnerTakesAllReadOut(), given)
    [probability] = SceneMasks(given.masks, SIZE, VIEWS)
    expected = semantic_probabilities(given.classes, probability).transpose(0, 1)
    assert result.pred_semantic.dtype == torch.float16
    torch.testing.assert_close(result.pred_semantic.float(), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(('readout', 'options'), READOUTS)
def test_every_view_is_read_as_if_it_were_alone_at_its_own_size(readout, options):
    """What lies beside a view on the canvas is void, and nothing of it comes into the view."""
    given = prediction(mixed=True)
    for view in range(VIEWS):
        for beside in (
            given.masks[:, view, given.extents[view, 0] :],
            given.masks[:, view, :, given.extents[view, 1] :],
        ):
            beside.fill_(torch.nan)
    result = read(readout(**options), given)
    # With one query per class and winner-takes-all, a view does not depend on the others.
    for view, (rows, columns) in enumerate(given.extents.tolist()):
        height, width = 2 * rows, 2 * columns
        inside = torch.zeros(SIZE, dtype=torch.bool)
        inside[:height, :width] = True
        assert (result.pred_panoptic.category[view][~inside] == -1).all()
        assert (result.pred_panoptic.instance[view][~inside] == 0).all()
        assert (result.pred_semantic[view][:, ~inside] == 0).all()
        alone = QueryPrediction(given.classes, given.masks[:, view : view + 1, :rows, :columns])
        expected = readout(**options)(alone, (height, width), SPACE, SceneSample())
        assert torch.equal(result.pred_semantic[view][:, :height, :width], expected.pred_semantic[0])
        if readout is WinnerTakesAllReadOut:
            category = result.pred_panoptic.category[view][:height, :width]
            assert torch.equal(category, expected.pred_panoptic.category[0])


@pytest.mark.parametrize(('readout', 'options'), READOUTS)
def test_memory_does_not_grow_with_the_number_of_views(readout, options):
    """The largest tensor that is made, but for the results, is that of one chunk."""
    given, largest = prediction(), []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.dtype == torch.float32:
                largest.append(result.nbytes)
            return result

    many = QueryPrediction(given.classes, given.masks.repeat(1, 8, 1, 1))
    with Watch():
        read(readout(views_per_chunk=2, **options), many)
    resized = QUERIES * 2 * SIZE[0] * SIZE[1] * 4
    # Low-resolution logits of the queries that are left may be copied.
    assert max(largest) <= max(resized, many.masks.nbytes)
    assert resized in largest


def scene_of_two_chairs() -> tuple[QueryPrediction, SceneSample]:
    """One query over both: columns 0-3 lie at x = 0, columns 8-11 five metres away; a wall between them."""
    classes = torch.full((2, 21), -9.0)
    classes[0, 4], classes[1, 0] = 9.0, 9.0
    masks = torch.full((2, 1, 8, 12), -9.0)
    masks[0, ..., :4], masks[0, ..., 8:], masks[1, ..., 4:8] = 9.0, 9.0, 9.0
    masks[0, 0, :2, 8:] = -9.0  # the second is the smaller one
    sample = SceneSample()
    column = torch.arange(12.0)
    points = torch.zeros(1, 8, 12, 3)
    points[..., 0] = 0.04 * column + 5.0 * (column >= 8)
    points[..., 1] = 0.04 * torch.arange(8.0)[:, None]
    points[..., 2] = 1.0
    eye = torch.eye(4)[None]
    valid = torch.ones(1, 8, 12, dtype=torch.bool)
    sample.pred_reconstruction = Reconstruction(points, points, torch.ones(1, 8, 12), eye, eye[:, :3, :3], valid)
    return QueryPrediction(classes, masks), sample


def test_an_instance_in_two_places_becomes_two_of_its_class_and_score():
    given, sample = scene_of_two_chairs()
    readout = ConnectedReadOut(readout={'type': 'WinnerTakesAllReadOut'}, voxel_size=0.05, radius=1, min_voxels=4)
    result = readout(given, SIZE, SPACE, sample)
    instance = result.pred_panoptic.instance[0]
    assert instance[:, :4].unique().tolist() == [1]
    assert instance[3:, 8:].unique().tolist() == [2]
    chairs = [segment for segment in result.pred_segments if segment['category'] == 4]
    assert [segment['instance'] for segment in chairs] == [1, 2]
    assert chairs[0]['score'] == chairs[1]['score']
    whole = ConnectedReadOut(readout={'type': 'WinnerTakesAllReadOut'}, voxel_size=6.0)(given, SIZE, SPACE, sample)
    assert whole.pred_panoptic.instance[0, 3:, 8:].unique().tolist() == [1]


def test_parts_in_space_need_a_reconstruction():
    readout = ConnectedReadOut(readout={'type': 'WinnerTakesAllReadOut'}, voxel_size=0.05)
    with pytest.raises(ValueError, match='must have `pred_reconstruction`'):
        readout(prediction(), SIZE, SPACE, SceneSample())


def test_numbers_below_one_are_refused():
    with pytest.raises(ValueError, match='`views_per_chunk` must be at least 1, got 0'):
        WinnerTakesAllReadOut(views_per_chunk=0)
    with pytest.raises(ValueError, match='`iterations` must be at least 1, got 0'):
        OverlapReadOut(iterations=0)
