"""Points of scenes: choices that spread against a loop, centres of masks by hand, unknown points without influence."""

import math

import pytest
import torch

from pano3d.functional.position_encoding import fourier_encoding
from pano3d.functional.scene_points import at_patches, choose_spread, known_points, mask_centres, scene_scale


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_unknown_points_are_zero_and_named():
    points = torch.tensor([[1.0, 2.0, 3.0], [math.nan, 0, 0], [0, math.inf, 0], [4.0, 5.0, 6.0]])
    clean, known = known_points(points, torch.tensor([False, False, False, True]))
    assert known.tolist() == [True, False, False, False]
    assert clean[:3].tolist() == [[1, 2, 3], [0, 0, 0], [0, 0, 0]]


def test_scale_is_the_median_distance_of_known_points():
    points = torch.tensor([[[3.0, 4, 0], [0, 0, 1], [0, 2, 0], [9, 9, 9]], [[0.0, 0, 0]] * 4])
    known = torch.tensor([[True, True, True, False], [True] * 4])
    assert scene_scale(points, known).tolist() == [2, 1]
    assert scene_scale(points, torch.zeros_like(known)).tolist() == [1, 1]


def brute_force(score: torch.Tensor, position: torch.Tensor, count: int) -> list[int]:
    chosen: list[int] = []
    for _ in range(count):
        places = [torch.zeros(position.shape[-1], dtype=position.dtype)] + [position[j] for j in chosen]
        value = [float(s * min((p - q).norm() for q in places)) for s, p in zip(score, position, strict=True)]
        chosen.append(max((k for k in range(len(value)) if k not in chosen), key=lambda k: value[k]))
    return chosen


@pytest.mark.parametrize('seed', range(4))
def test_choice_is_that_of_the_loop(seed):
    score, position = random(2, 12, seed=seed).sigmoid(), random(2, 12, 3, seed=seed + 10)
    chosen = choose_spread(score, position, 9)
    assert chosen.tolist() == [brute_force(score[scene], position[scene], 9) for scene in range(2)]
    # neither the unit of the scores nor that of the positions matters
    assert torch.equal(chosen, choose_spread(0.01 * score, 500 * position, 9))


def test_equal_scores_are_farthest_points_and_a_low_score_waits():
    position = torch.tensor([[[1.0, 0, 0], [1.1, 0, 0], [-1, 0, 0], [0, 0.7, 0]]])
    assert choose_spread(torch.ones(1, 4), position, 3).tolist() == [[1, 2, 3]]
    assert choose_spread(torch.tensor([[1.0, 1.0, 0.2, 1.0]]), position, 3).tolist() == [[1, 3, 2]]


def test_all_are_taken_before_one_is_taken_again_and_ignored_ones_never():
    ignored = torch.tensor([[False, True, False, False], [True, True, True, False]])
    chosen = choose_spread(random(2, 4).sigmoid(), random(2, 4, 3, seed=1), 6, ignored=ignored)
    assert sorted(chosen[0, :3].tolist()) == sorted(chosen[0, 3:].tolist()) == [0, 2, 3]
    assert chosen[1].tolist() == [3] * 6


def test_equal_places_are_chosen_last():
    position = torch.zeros(1, 3, 3)
    position[0, 1, 0] = 1
    assert choose_spread(torch.ones(1, 3), position, 3)[0, 0] == 1
    assert choose_spread(torch.ones(1, 3), torch.zeros(1, 3, 3), 3).sort().values.tolist() == [[0, 1, 2]]


def test_centre_is_the_mean_weighted_by_probability_where_the_mask_is_on():
    points = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [5, 5, 5], [7, 7, 7]]])
    known = torch.tensor([[True, True, True, False]])
    third = math.log(3)  # probability 3 / 4
    masks = torch.tensor([[[0.0, third, -0.1, 9.0], [-1.0, -1, -1, 5.0]]])
    default = torch.tensor([[[8.0, 8, 8], [9, 9, 9]]])
    centres = mask_centres(masks, points, known, default)
    torch.testing.assert_close(centres, torch.tensor([[[0.75 / 1.25, 0, 0], [9, 9, 9]]]))


def test_patches_have_the_point_of_their_middle():
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(12), indexing='ij')
    points = torch.stack([rows, columns, rows * 100 + columns], dim=-1).float().expand(1, 2, -1, -1, -1)
    found = at_patches(points, (2, 3))
    assert found.shape == (1, 2, 6, 3)
    assert found[0, 1, :, :2].tolist() == [[2, 2], [2, 6], [2, 10], [6, 2], [6, 6], [6, 10]]


def test_fourier_encoding_by_hand():
    encoded = fourier_encoding(torch.tensor([[1.0, -2.0, 4.0]]), 2)
    angles = [x * math.pi / 4 * factor for x in (1, -2, 4) for factor in (1, 2)]
    expected = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
    torch.testing.assert_close(encoded, torch.tensor([expected]), atol=1e-6, rtol=0)
