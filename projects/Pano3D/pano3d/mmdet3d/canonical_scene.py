"""The frame and the unit in which heads of mmdet3d see a scene, predicted or true."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pano3d.functional.geometry import invert_rigid, relative_to_first, transform_points
from pano3d.structures import Reconstruction

FRAMES = ('aligned', 'first_camera')
UNITS = ('metres', 'mean_distance')
SMALLEST_UNIT = 1e-6


@dataclass(frozen=True)
class CanonicalScene:
    """Points and cameras of V views in the frame of `canonical_scene`.

    Args:
        points: (V, H, W, 3); zero where not valid.
        valid: (V, H, W), bool.
        camera_to_scene: (V, 4, 4).
        intrinsics: (V, 3, 3), pixels.
        unit: how many of the units of the reconstruction one unit of this scene is.
    """

    points: Tensor
    valid: Tensor
    camera_to_scene: Tensor
    intrinsics: Tensor
    unit: Tensor


def canonical_scene(reconstruction: Reconstruction, *, rotation: Tensor, unit: str) -> CanonicalScene:
    """One scene (V, ...) with the first camera at the origin, turned, in another unit.

    Args:
        reconstruction: of V views, in whatever frame.
        rotation: (3, 3), from the axes of the first camera to those of the frame, see `canonical_rotation`.
        unit: 'metres' leaves lengths as they are; 'mean_distance' divides them by the mean distance of the valid points
            from the first camera, for networks that predict up to scale.

    Raises:
        ValueError: on another unit.
    """
    if unit not in UNITS:
        raise ValueError(f'`unit` must be one of {UNITS}, got {unit!r}')
    turn = torch.eye(4, dtype=rotation.dtype, device=rotation.device)
    turn[:3, :3] = rotation
    to_first = invert_rigid(reconstruction.camera_to_world[0])
    valid = reconstruction.valid & reconstruction.points.isfinite().all(-1)
    points = torch.where(valid[..., None], reconstruction.points, 0)
    points = transform_points(turn, transform_points(to_first, points.flatten(0, 2))).view_as(points)
    points = torch.where(valid[..., None], points, 0)
    cameras = (turn[..., None] * relative_to_first(reconstruction.camera_to_world)[:, None]).sum(-2)
    length = points.new_ones(())
    if unit == 'mean_distance' and valid.any():
        length = points[valid].norm(dim=-1).mean().clamp_min(SMALLEST_UNIT)
    cameras[:, :3, 3] /= length
    return CanonicalScene(points / length, valid, cameras, reconstruction.intrinsics, length)


def canonical_rotation(sample: Mapping[str, Any], *, frame: str) -> Tensor:
    """Rotation (3, 3) from the axes of the first camera to the frame in which heads work.

    The frame has the axes of mmdet3d's depth coordinates. With the first camera's axes that is x right, y forward, z
    up as the camera is held. Where the scene has an axis alignment and the pose of the first camera is known, z is up
    against gravity, x and y are along the walls, and of the four such frames it is the one in which the first camera
    looks most along y.

    Args:
        sample: fields and meta information of the scene; `axis_alignment` and `gt_reconstruction` are looked at.
        frame: 'aligned' as above; 'first_camera' never looks at the alignment.

    Raises:
        ValueError: on another frame.
    """
    if frame not in FRAMES:
        raise ValueError(f'`frame` must be one of {FRAMES}, got {frame!r}')
    truth, alignment = sample.get('gt_reconstruction'), sample.get('axis_alignment')
    if frame == 'aligned' and truth is not None and alignment is not None:
        first = truth.camera_to_world[0, :3, :3]
        return _facing_y((first.new_tensor(alignment)[:3, :3, None] * first[None]).sum(1))
    device = None if truth is None else truth.points.device
    return torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]], device=device)


def boxes_of_instances(
    points: Tensor, valid: Tensor, category: Tensor, instance: Tensor, *, min_points: int
) -> tuple[Tensor, Tensor]:
    """Axis-aligned boxes around the visible points of each instance, by rising instance id.

    Args:
        points: (..., 3).
        valid: (...), bool, which points count.
        category: (...), -1 for void.
        instance: (...), 0 for none; points of one instance have one category.
        min_points: instances with fewer valid points have no box.

    Returns:
        Boxes (N, 6) as centre and full size, and their categories (N,).
    """
    chosen = valid & (instance > 0) & (category >= 0)
    points, category = points[chosen], category[chosen]
    ids, owner, counts = instance[chosen].unique(return_inverse=True, return_counts=True)
    index = owner[:, None].expand(-1, 3)
    low = points.new_full((len(ids), 3), torch.inf).scatter_reduce(0, index, points, 'amin')
    high = points.new_full((len(ids), 3), -torch.inf).scatter_reduce(0, index, points, 'amax')
    labels = category.new_full((len(ids),), -1).scatter_reduce(0, owner, category, 'amax')
    kept = counts >= min_points
    return torch.cat([(low + high) / 2, high - low], dim=1)[kept], labels[kept]


def _facing_y(rotation: Tensor) -> Tensor:
    """The rotation (3, 3), turned about z by as many quarters as bring what it does to the third axis closest to y."""
    quarter = rotation.new_tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    turned = [rotation]
    for _ in range(3):
        turned.append((quarter[..., None] * turned[-1][None]).sum(1))
    return max(turned, key=lambda candidate: float(candidate[1, 2]))
