"""Points on labelled pixels, against one view at a time, full enumeration and hand-computed pixels."""

import pytest
import torch
from torch.nn import functional as F

from pano3d.functional.point_sampling import (
    Points,
    draw_points,
    labelled_pixels,
    most_doubtful,
    num_labelled_views,
    sample_all,
    sample_index,
    sample_own,
)

VIEWS, HEIGHT, WIDTH = 3, 4, 6


@pytest.fixture
def index() -> torch.Tensor:
    """Two scenes: view 1 of the first has no label, view 2 of the second a single one."""
    index = torch.randint(-1, 3, (2, VIEWS, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(0))
    index[0, 1], index[1, 2] = -1, -1
    index[1, 2, 3, 5] = 2
    return index


def test_points_are_spread_evenly_over_the_labelled_pixels_of_their_scene(index):
    torch.manual_seed(0)
    points = draw_points(labelled_pixels(index), torch.tensor([1, 0]), 40_000, per_view=False)
    for n, scene in enumerate((1, 0)):
        known = (index[scene] >= 0).flatten()
        count = torch.bincount(points.pixel[n] - scene * known.numel(), minlength=known.numel())
        expected = 40_000 / known.sum()
        assert count[~known].sum() == 0
        assert ((count[known] - expected).abs() < 5 * expected**0.5).all()
    assert points.offset.min() >= 0 and points.offset.max() <= 1
    assert abs(points.offset.mean() - 0.5) < 0.01


def test_every_view_with_labels_gets_its_share(index):
    torch.manual_seed(0)
    pixels = labelled_pixels(index)
    assert num_labelled_views(pixels).tolist() == [2, 3]
    points = draw_points(pixels, torch.tensor([0, 1]), 600, per_view=True)
    view = points.pixel // (HEIGHT * WIDTH) % VIEWS
    assert [torch.bincount(v, minlength=VIEWS).tolist() for v in view] == [[300, 0, 300], [200, 200, 200]]
    assert torch.equal(sample_index(index, points), index.flatten()[points.pixel])
    assert (sample_index(index, points) >= 0).all()
    assert torch.equal(view[0, :4], torch.tensor([0, 2, 0, 2]))


def test_a_scene_without_labels_leaves_the_others_alone(index):
    index[0] = -1
    pixels = labelled_pixels(index)
    assert num_labelled_views(pixels).tolist() == [1, 3]
    for per_view in (False, True):
        points = draw_points(pixels, torch.tensor([0, 1]), 50, per_view=per_view)
        assert (points.pixel[1] >= VIEWS * HEIGHT * WIDTH).all()


def random_points(extents: torch.Tensor | None, ratio: int) -> Points:
    """60 points per scene; with extents on a canvas whose views fill their own part only."""
    index = torch.zeros(2, VIEWS, HEIGHT * ratio, WIDTH * ratio, dtype=torch.long)
    if extents is not None:
        for b in range(2):
            for v in range(VIEWS):
                index[b, v, extents[b, v, 0] * ratio :] = -1
                index[b, v, :, extents[b, v, 1] * ratio :] = -1
    return draw_points(labelled_pixels(index), torch.arange(2), 60, per_view=False)


@pytest.mark.parametrize('ratio', [1, 3])
@pytest.mark.parametrize('extents', [None, torch.tensor([[[4, 6], [2, 3], [1, 1]], [[3, 6], [4, 1], [2, 2]]])])
def test_sampling_reads_each_view_alone_at_its_own_size(extents, ratio):
    torch.manual_seed(0)
    masks = torch.randn(2, 5, VIEWS, HEIGHT, WIDTH)
    points = random_points(extents, ratio)
    found = sample_all(masks, points, extents)
    for b in range(2):
        for p in range(60):
            pixel = int(points.pixel[b, p]) - b * VIEWS * HEIGHT * WIDTH * ratio**2
            view, rest = divmod(pixel, HEIGHT * WIDTH * ratio**2)
            row, column = divmod(rest, WIDTH * ratio)
            rows, columns = (HEIGHT, WIDTH) if extents is None else extents[b, view].tolist()
            x, y = points.offset[b, p].tolist()
            place = torch.tensor([2 * (column + x) / (columns * ratio) - 1, 2 * (row + y) / (rows * ratio) - 1])
            own = masks[b : b + 1, :, view, :rows, :columns]
            value = F.grid_sample(own, place.view(1, 1, 1, 2), padding_mode='border', align_corners=False)
            torch.testing.assert_close(found[b, :, p], value[0, :, 0, 0], rtol=1e-4, atol=1e-5)


def test_masks_read_at_their_own_points_equal_all_masks_read_there():
    torch.manual_seed(0)
    masks = torch.randn(2, 5, VIEWS, HEIGHT, WIDTH)
    extents = torch.randint(1, 5, (2, VIEWS, 2))
    points = random_points(extents, 2)
    scene, query = torch.tensor([0, 1, 1]), torch.tensor([4, 0, 3])
    found = sample_own(masks, scene, query, points[scene], extents)
    torch.testing.assert_close(found, sample_all(masks, points, extents)[scene, query])


def test_centres_of_pixels_of_one_size_give_the_cell():
    masks = torch.arange(2.0 * VIEWS * HEIGHT * WIDTH).view(2, 1, VIEWS, HEIGHT, WIDTH)
    pixel = torch.arange(2 * VIEWS * HEIGHT * WIDTH).view(2, -1)
    points = Points(pixel, torch.full((*pixel.shape, 2), 0.5), (VIEWS, HEIGHT, WIDTH))
    torch.testing.assert_close(sample_all(masks, points)[:, 0], pixel.float())


@pytest.mark.parametrize('count', [0, 5, 7, 11])
def test_the_most_doubtful_are_the_smallest_of_each_group(count):
    confidence = torch.rand(4, 11, generator=torch.Generator().manual_seed(0))
    num_groups = torch.tensor([1, 2, 3, 5])
    found = most_doubtful(confidence, count, num_groups)
    assert found.shape == (4, count)
    for n, groups in enumerate(num_groups.tolist()):
        for group in range(groups):
            candidates = sorted(range(group, 11, groups), key=lambda c, n=n: float(confidence[n, c]))
            assert found[n, group::groups].tolist() == candidates[: len(range(group, count, groups))]


def test_without_groups_they_are_the_smallest_of_all():
    confidence = torch.rand(3, 11, generator=torch.Generator().manual_seed(0))
    found = most_doubtful(confidence, 4)
    for n in range(3):
        assert set(found[n].tolist()) == set(sorted(range(11), key=lambda c, n=n: float(confidence[n, c]))[:4])
