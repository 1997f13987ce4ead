"""How far two aligned point clouds are from each other: accuracy, completion, normal consistency.

Source: DTU / Tanks and Temples practice as in DUSt3R-like evaluations of point maps (7-Scenes, NRGBD).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from .alignment import check_points

CHUNK = 1 << 16

# Points whose distances differ by less than this share are equally near; so many of them are looked at.
TIE = 1e-12
MOST_TIED = 16


@dataclass(frozen=True)
class PointCloudErrors:
    """Distances in the unit of the points; consistencies in [0, 1], nan without normals.

    Args:
        accuracy, accuracy_median: distance of predicted points to the nearest true point.
        completion, completion_median: distance of true points to the nearest predicted point.
        completion_ratio: share of true points closer to a prediction than `ratio_distance`.
        accuracy_normals, accuracy_normals_median: |cos| between the normals of predicted points and of their nearest
            true points; the largest where several are equally near, so that the order of points does not matter.
        completion_normals, completion_normals_median: the same from the true points.
    """

    accuracy: float
    accuracy_median: float
    completion: float
    completion_median: float
    completion_ratio: float
    accuracy_normals: float
    accuracy_normals_median: float
    completion_normals: float
    completion_normals_median: float

    @property
    def normal_consistency(self) -> float:
        """Mean of both directions."""
        return (self.accuracy_normals + self.completion_normals) / 2

    @property
    def normal_consistency_median(self) -> float:
        """Mean of the medians of both directions."""
        return (self.accuracy_normals_median + self.completion_normals_median) / 2


def point_cloud_errors(
    *,
    predicted: Tensor,
    gt: Tensor,
    predicted_normals: Tensor | None = None,
    gt_normals: Tensor | None = None,
    ratio_distance: float = 0.05,
) -> PointCloudErrors:
    """Compare two clouds in one frame. Computed in float64.

    Args:
        predicted: (N, 3), finite.
        gt: (M, 3), finite.
        predicted_normals: (N, 3), unit vectors of any sign.
        gt_normals: (M, 3); both or neither.
        ratio_distance: for `completion_ratio`, unit of the points.

    Raises:
        ValueError: if a cloud is empty, a value is not finite, normals are not unit vectors, do not fit their
            points, or are given for one cloud only.
    """
    if (predicted_normals is None) != (gt_normals is None):
        raise ValueError('`predicted_normals` and `gt_normals` must be given together')
    predicted, gt = check_points(predicted, 'predicted'), check_points(gt, 'gt')
    gt_tree, predicted_tree = cKDTree(gt.numpy()), cKDTree(predicted.numpy())
    to_gt, nearest_gt = gt_tree.query(predicted.numpy(), k=[1, 2])
    to_predicted, nearest_predicted = predicted_tree.query(gt.numpy(), k=[1, 2])
    accuracy_cosine = completion_cosine = np.array([np.nan])
    if predicted_normals is not None and gt_normals is not None:
        normals = _check_normals(predicted_normals, predicted, 'predicted_normals')
        true_normals = _check_normals(gt_normals, gt, 'gt_normals')
        accuracy_cosine = _nearest_cosine(predicted.numpy(), normals, gt_tree, true_normals, to_gt, nearest_gt)
        completion_cosine = _nearest_cosine(
            gt.numpy(), true_normals, predicted_tree, normals, to_predicted, nearest_predicted
        )
    to_gt, to_predicted = to_gt[:, 0], to_predicted[:, 0]
    return PointCloudErrors(
        accuracy=float(to_gt.mean()),
        accuracy_median=float(np.median(to_gt)),
        completion=float(to_predicted.mean()),
        completion_median=float(np.median(to_predicted)),
        completion_ratio=float((to_predicted < ratio_distance).mean()),
        accuracy_normals=float(accuracy_cosine.mean()),
        accuracy_normals_median=float(np.median(accuracy_cosine)),
        completion_normals=float(completion_cosine.mean()),
        completion_normals_median=float(np.median(completion_cosine)),
    )


def estimate_normals(points: Tensor, *, neighbours: int = 30) -> Tensor:
    """Unit normals (N, 3), float64, of a cloud (N, 3): direction of least spread of the nearest neighbours.

    The point is one of its neighbours; the sign is arbitrary.

    Raises:
        ValueError: if `neighbours` is below 3, there are fewer points than 3, or a value is not finite.
    """
    cloud = check_points(points, 'points').numpy()
    if neighbours < 3 or len(cloud) < 3:
        raise ValueError(f'a normal needs at least 3 neighbours, got {neighbours} of {len(cloud)} points')
    tree = cKDTree(cloud)
    normals = np.empty_like(cloud)
    for start in range(0, len(cloud), CHUNK):  # 30 neighbours of all points at once would fill the memory
        part = cloud[start : start + CHUNK]
        patches = cloud[tree.query(part, k=min(neighbours, len(cloud)))[1]]
        patches = patches - patches.mean(1, keepdims=True)
        _, directions = np.linalg.eigh(patches.transpose(0, 2, 1) @ patches)
        normals[start : start + CHUNK] = directions[..., 0]
    return torch.from_numpy(normals)


def _check_normals(normals: Tensor, points: Tensor, name: str) -> np.ndarray:
    if normals.shape != points.shape:
        raise ValueError(
            f'`{name}` must have the shape of its points, {tuple(points.shape)}, got {tuple(normals.shape)}'
        )
    checked: np.ndarray = check_points(normals, name).numpy()
    wrong = int((np.abs(np.linalg.norm(checked, axis=-1) - 1) > 1e-3).sum())
    if wrong:
        raise ValueError(f'`{name}` must be unit vectors; {wrong} of {len(checked)} are not')
    return checked


def _nearest_cosine(
    points: np.ndarray,
    normals: np.ndarray,
    tree: cKDTree,
    tree_normals: np.ndarray,
    distance: np.ndarray,
    nearest: np.ndarray,
) -> np.ndarray:
    """|cos| (N,) of the normals of points and of the nearest in the tree, given the two nearest of each, (N, 2)."""
    cosine = _unsigned_cosine(normals, tree_normals[nearest[:, 0]])
    tied = np.flatnonzero(distance[:, 1] <= (1 + TIE) * distance[:, 0])
    if len(tied):
        distance, nearest = tree.query(points[tied], k=np.arange(min(MOST_TIED, tree.n)) + 1)
        candidates = _unsigned_cosine(normals[tied, None], tree_normals[nearest])
        cosine[tied] = np.where(distance <= (1 + TIE) * distance[:, :1], candidates, 0.0).max(1)
    return cosine


def _unsigned_cosine(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """|cos| between unit vectors (..., 3); exactly 1 between equal ones, whatever rounding left of 1."""
    same = (left == right).all(-1) | (left == -right).all(-1)
    return np.where(same, 1.0, np.abs((left * right).sum(-1)))
