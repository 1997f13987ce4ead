"""Errors of camera poses: relative rotation and translation of pairs (RRA, RTA, AUC), trajectory (ATE, RPE).

Poses are camera_to_world matrices (V, 4, 4). Pair errors: Wang et al., "PoseDiffusion", ICCV 2023; trajectory errors:
Sturm et al., "A Benchmark for the Evaluation of RGB-D SLAM Systems", IROS 2012.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .alignment import align_similarity, is_degenerate
from .geometry import transform_points
from .rotation import matrix_to_quaternion

ZERO_BASELINE = 1e-12
"""Two centres closer than this share of the largest coordinate are one."""


@dataclass(frozen=True)
class PairErrors:
    """Errors of P pairs of cameras, degrees.

    Args:
        rotation: (P,) float64, angle between the relative rotations, in [0, 180].
        translation: (P,) float64, angle between the lines of the relative translations, in [0, 90]; nan where the true
            cameras share their centre, so that there is no direction.
    """

    rotation: Tensor
    translation: Tensor


@dataclass(frozen=True)
class PoseCounts:
    """What the scores of pairs need, for T thresholds. Counts add up with `+`.

    Args:
        pairs: () int64.
        directions: () int64, pairs whose true centres differ.
        rotations: (T,) int64, pairs with a rotation error under the threshold.
        translations: (T,) int64, pairs with a translation error under the threshold.
        area: (T,) float64, sum over pairs of the area that one pair adds under the curve of accuracy.
    """

    pairs: Tensor
    directions: Tensor
    rotations: Tensor
    translations: Tensor
    area: Tensor

    def __add__(self, other: PoseCounts) -> PoseCounts:
        return PoseCounts(
            self.pairs + other.pairs,
            self.directions + other.directions,
            self.rotations + other.rotations,
            self.translations + other.translations,
            self.area + other.area,
        )


@dataclass(frozen=True)
class TrajectoryErrors:
    """Root mean squares; nan if the centres do not determine a similarity (fewer than three, or on one line).

    Args:
        absolute: of the distances of aligned to true centres (ATE), unit of the ground truth.
        relative_translation: of the translation error between neighbouring views (RPE), unit of the ground truth.
        relative_rotation: of the rotation error between neighbouring views (RPE), degrees.
    """

    absolute: float
    relative_translation: float
    relative_rotation: float


def pair_errors(
    *, predicted: Tensor, gt: Tensor, direction: Literal['forward', 'reversed', 'both'] = 'forward'
) -> PairErrors:
    """Errors of the relative poses of all pairs of views; no frame or scale of the prediction matters. In float64.

    Args:
        predicted: (V, 4, 4), camera to world, any frame and scale.
        gt: (V, 4, 4).
        direction: whose axes the translation of views i < j is given in: 'forward' those of j, 'reversed' those of i,
            'both' counts each pair both ways, so that the order of views does not matter.

    Raises:
        ValueError: if shapes differ, there are fewer than two views, a value is not finite or `direction` is unknown.
    """
    predicted, gt = _check_poses(predicted, gt)
    first, second = torch.triu_indices(len(gt), len(gt), offset=1)
    ends = {
        'forward': (second, first),
        'reversed': (first, second),
        'both': (torch.cat([second, first]), torch.cat([first, second])),
    }
    if direction not in ends:
        raise ValueError(f'`direction` must be one of {list(ends)}, got {direction!r}')
    seen_from, seen = ends[direction]
    rotation, translation = _relative(predicted, seen_from, seen)
    true_rotation, true_translation = _relative(gt, seen_from, seen)
    angle = 2 * _line_angle(matrix_to_quaternion(rotation), matrix_to_quaternion(true_rotation))
    slant = _line_angle(translation, true_translation)
    nowhere = true_translation.norm(dim=-1) <= ZERO_BASELINE * gt[:, :3, 3].abs().max()
    return PairErrors(angle.rad2deg(), slant.rad2deg().masked_fill(nowhere, torch.nan))


def pose_counts(
    errors: PairErrors, *, thresholds: Sequence[int], bins: Literal['degree', 'histc'] = 'degree'
) -> PoseCounts:
    """Count pairs under thresholds.

    The error of a pair, for the area, is the larger of its two; of the rotation alone where there is no direction.

    Args:
        errors: of P pairs.
        thresholds: T whole degrees.
        bins: of the histogram whose cumulated mean is the AUC at t: 'degree', t bins of one degree; 'histc', t + 1 bins
            over t degrees, as `torch.histc` calls of some evaluators have it.

    Raises:
        ValueError: if a threshold is not a positive whole number, or `bins` is unknown.
    """
    if any(t < 1 or t != int(t) for t in thresholds):
        raise ValueError(f'`thresholds` must be positive whole degrees, got {list(thresholds)}')
    if bins not in ('degree', 'histc'):
        raise ValueError(f"`bins` must be 'degree' or 'histc', got {bins!r}")
    limits = torch.tensor(thresholds, dtype=torch.float64)
    largest = torch.fmax(errors.rotation, errors.translation)[:, None]  # fmax passes over nan
    number = limits if bins == 'degree' else limits + 1
    place = torch.minimum((largest * (number / limits)).floor(), number - 1)  # the last bin is closed
    area = torch.where(largest <= limits, (number - place) / number, 0)
    return PoseCounts(
        pairs=torch.tensor(len(errors.rotation)),
        directions=(~errors.translation.isnan()).sum(),
        rotations=(errors.rotation[:, None] < limits).sum(0),
        translations=(errors.translation[:, None] < limits).sum(0),
        area=area.sum(0),
    )


def pose_scores(counts: PoseCounts) -> Tensor:
    """RRA, RTA and AUC at each threshold, (3, T) float64, fractions; nan where no pair counts."""
    return torch.stack(
        [
            counts.rotations.double() / counts.pairs,
            counts.translations.double() / counts.directions,
            counts.area / counts.pairs,
        ]
    )


def trajectory_errors(*, predicted: Tensor, gt: Tensor) -> TrajectoryErrors:
    """Errors of the cameras after one Sim(3) between their centres; neighbours are views in their order. In float64.

    Args:
        predicted: (V, 4, 4), camera to world, any frame and scale.
        gt: (V, 4, 4), camera to world.

    Raises:
        ValueError: if shapes differ, there are fewer than two views or a value is not finite.
    """
    predicted, gt = _check_poses(predicted, gt)
    centres, true_centres = predicted[:, :3, 3], gt[:, :3, 3]
    if is_degenerate(centres) or is_degenerate(true_centres):
        return TrajectoryErrors(torch.nan, torch.nan, torch.nan)
    transform = align_similarity(centres, true_centres)
    scale = torch.linalg.det(transform[:3, :3]) ** (1 / 3)
    order = torch.arange(len(gt))
    rotation, translation = _relative(predicted, order[:-1], order[1:])
    true_rotation, true_translation = _relative(gt, order[:-1], order[1:])
    angle = 2 * _line_angle(matrix_to_quaternion(rotation), matrix_to_quaternion(true_rotation))
    return TrajectoryErrors(
        absolute=_root_mean_square((transform_points(transform, centres) - true_centres).norm(dim=-1)),
        relative_translation=_root_mean_square((scale * translation - true_translation).norm(dim=-1)),
        relative_rotation=_root_mean_square(angle.rad2deg()),
    )


def _relative(poses: Tensor, seen_from: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Rotations (P, 3, 3) and translations (P, 3) of cameras `seen` in the axes of cameras `seen_from`, both (P,)."""
    axes = poses[seen_from, :3, :3].transpose(-1, -2)
    between = poses[seen, :3, 3] - poses[seen_from, :3, 3]
    return axes @ poses[seen, :3, :3], (axes @ between[..., None])[..., 0]


def _line_angle(left: Tensor, right: Tensor) -> Tensor:
    """Angle (...) in [0, pi / 2] between the lines along vectors (..., n); the largest if one has no length.

    From chords (Kahan): exact at 0 too, where the arc cosine keeps half the digits.
    """
    left, right = (torch.nn.functional.normalize(vectors, dim=-1, eps=1e-300) for vectors in (left, right))
    chords = torch.stack([(left - right).norm(dim=-1), (left + right).norm(dim=-1)])
    return 2 * torch.atan2(chords.amin(0), chords.amax(0))


def _root_mean_square(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def _check_poses(predicted: Tensor, gt: Tensor) -> tuple[Tensor, Tensor]:
    for name, poses in (('predicted', predicted), ('gt', gt)):
        if poses.shape != (len(gt), 4, 4):
            raise ValueError(f'`{name}` must have shape (V, 4, 4) as `gt`, {tuple(gt.shape)}, got {tuple(poses.shape)}')
        wrong = int((~poses.isfinite().flatten(1).all(-1)).sum())
        if wrong:
            raise ValueError(f'`{name}` must be finite; {wrong} of {len(poses)} cameras are not')
    if len(gt) < 2:
        raise ValueError(f'pose errors need at least two views, got {len(gt)}')
    return predicted.detach().double().cpu(), gt.detach().double().cpu()
