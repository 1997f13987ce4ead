"""Instances cut in space, against a flood fill from voxel to voxel."""

import pytest
import torch

from pano3d.functional.components import split_components

SIZE = 0.1


def slow_parts(instance, points, valid, radius, min_voxels):
    """Sets of (id, set of pixels) after the split, by flood fill over dictionaries."""
    cells: dict[int, dict[tuple, list[int]]] = {}
    for p in range(len(instance)):
        if instance[p] > 0 and valid[p]:
            cell = tuple((points[p] / SIZE).floor().long().tolist())
            cells.setdefault(int(instance[p]), {}).setdefault(cell, []).append(p)
    result = set()
    for number, voxels in cells.items():
        parts, left = [], set(voxels)
        while left:
            part, front = set(), [left.pop()]
            while front:
                here = front.pop()
                part.add(here)
                near = {c for c in left if max(abs(a - b) for a, b in zip(here, c, strict=True)) <= radius}
                left -= near
                front += near
            parts.append(part)
        parts.sort(key=len, reverse=True)
        small = [part for part in parts[1:] if len(part) < min_voxels]
        main = [p for part in [parts[0], *small] for voxel in part for p in voxels[voxel]]
        result.add((number, frozenset(main)))
        result |= {
            (number, frozenset(p for voxel in part for p in voxels[voxel])) for part in parts[1:] if part not in small
        }
    return result


@pytest.mark.parametrize('min_voxels', [1, 4])
@pytest.mark.parametrize('radius', [1, 2])
@pytest.mark.parametrize('seed', range(3))
def test_parts_equal_those_of_a_flood_fill(seed, radius, min_voxels):
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(300, 3, generator=generator) * torch.tensor([2.0, 1.0, 0.7]) - 0.5
    # Clusters of unlike sizes: one may not tie with another for the largest.
    instance = torch.randint(0, 4, (300,), generator=generator) * 5
    valid = torch.rand(300, generator=generator) > 0.1
    split, former = split_components(instance, points, valid, voxel_size=SIZE, radius=radius, min_voxels=min_voxels)

    seen = (instance > 0) & valid
    found = {
        (int(instance[seen & (split == number)][0]), frozenset((seen & (split == number)).nonzero()[:, 0].tolist()))
        for number in split[seen].unique()
    }
    expected = slow_parts(instance, points, valid, radius, min_voxels)
    assert {len(pixels) for _, pixels in found} == {len(pixels) for _, pixels in expected}
    if min_voxels == 1:  # among equal ones it is a matter of order which keeps the id, and gets the small ones
        assert found == expected
    assert len(former) == len(found) - 3
    assert torch.equal(split[~seen], instance[~seen])
    for place, parent in enumerate(former.tolist()):
        assert instance[split == 16 + place].unique().tolist() == [parent]


def row(*xs: float) -> torch.Tensor:
    return torch.tensor([[x, 0.0, 1.0] for x in xs])


def test_the_largest_part_keeps_the_id_over_all_views_and_the_next_gets_a_new_one():
    points = torch.stack([row(0.0, 0.1, 5.0), row(0.2, 5.0, 9.0)])[:, None]
    instance = torch.tensor([[[3, 3, 3]], [[3, 3, 7]]])
    split, former = split_components(instance, points, torch.ones(2, 1, 3, dtype=torch.bool), voxel_size=0.1)
    assert split.tolist() == [[[3, 3, 8]], [[3, 8, 7]]]
    assert former.tolist() == [3]


def test_small_parts_pixels_without_a_point_and_stuff_stay():
    points = row(0.0, 0.1, 5.0, float('nan'), 8.0)
    instance = torch.tensor([2, 2, 2, 2, 0])
    split, former = split_components(
        instance, points, torch.tensor([True, True, True, False, True]), voxel_size=0.1, min_voxels=2
    )
    assert torch.equal(split, instance) and len(former) == 0
    split, former = split_components(instance, points, torch.zeros(5, dtype=torch.bool), voxel_size=0.1)
    assert torch.equal(split, instance) and len(former) == 0


def test_neighbouring_rows_of_the_grid_do_not_touch():
    """The last voxel of a row and the first of the next are far apart though their numbers follow each other."""
    points = torch.tensor([[0.05, 0.05, 0.95], [0.05, 0.15, 0.05], [0.05, 0.05, 0.85]])
    split, _ = split_components(torch.ones(3).long(), points, torch.ones(3, dtype=torch.bool), voxel_size=0.1)
    assert split.tolist() == [1, 2, 1]


def test_a_point_far_away_does_no_harm():
    points = row(0.0, 0.1, 1e9)
    split, _ = split_components(torch.ones(3).long(), points, torch.ones(3, dtype=torch.bool), voxel_size=0.1)
    assert split.tolist() == [1, 1, 2]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'voxel_size': 0.0}, 'must be positive'),
        ({'radius': 0}, 'at least 1'),
        ({'points': torch.zeros(4, 3)}, r'got \(4, 3\)'),
    ],
)
def test_what_cannot_be_is_refused(change, message):
    given = {'points': torch.zeros(3, 3), 'voxel_size': 0.1, 'radius': 1} | change
    points = given.pop('points')
    with pytest.raises(ValueError, match=message):
        split_components(torch.ones(3).long(), points, torch.ones(3, dtype=torch.bool), **given)


def test_a_grid_beyond_64_bits_is_refused():
    far = torch.eye(3) * 1e9 - 5e8
    points, instance = far.repeat(3000, 1), torch.arange(1, 9001)
    with pytest.raises(ValueError, match='use larger ones'):
        split_components(instance, points, torch.ones(9000, dtype=torch.bool), voxel_size=1e-6)
