"""Rotations: quaternions are (x, y, z, w), scalar last; matrices act on column vectors."""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_STIFFNESS = 1e-6


def quaternion_to_matrix(quaternion: Tensor) -> Tensor:
    """Matrices (..., 3, 3) of quaternions (..., 4) of any length; a zero quaternion gives the identity.

    Raises:
        ValueError: if the last dimension is not 4.
    """
    if quaternion.shape[-1] != 4:
        raise ValueError(f'`quaternion` must have shape (..., 4), got {tuple(quaternion.shape)}')
    x, y, z, w = quaternion.unbind(-1)
    scale = 2 / quaternion.square().sum(-1).clamp_min(torch.finfo(quaternion.dtype).tiny)
    entries = [
        1 - scale * (y * y + z * z), scale * (x * y - z * w), scale * (x * z + y * w),
        scale * (x * y + z * w), 1 - scale * (x * x + z * z), scale * (y * z - x * w),
        scale * (x * z - y * w), scale * (y * z + x * w), 1 - scale * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))


def matrix_to_quaternion(matrix: Tensor) -> Tensor:
    """Unit quaternions (..., 4) with w >= 0 of rotation matrices (..., 3, 3).

    Each row of the symmetric matrix 4 q q^T is a multiple of q; the one with the largest diagonal entry is well
    conditioned (Shepperd 1978).

    Raises:
        ValueError: if the last dimensions are not (3, 3).
    """
    if matrix.shape[-2:] != (3, 3):
        raise ValueError(f'`matrix` must have shape (..., 3, 3), got {tuple(matrix.shape)}')
    xx, yy, zz = matrix.diagonal(dim1=-2, dim2=-1).unbind(-1)
    xy, xz, yz = (matrix[..., i, j] + matrix[..., j, i] for i, j in ((0, 1), (0, 2), (1, 2)))
    xw, yw, zw = (matrix[..., i, j] - matrix[..., j, i] for i, j in ((2, 1), (0, 2), (1, 0)))
    outer = torch.stack(
        [
            torch.stack([1 + xx - yy - zz, xy, xz, xw], dim=-1),
            torch.stack([xy, 1 - xx + yy - zz, yz, yw], dim=-1),
            torch.stack([xz, yz, 1 - xx - yy + zz, zw], dim=-1),
            torch.stack([xw, yw, zw, 1 + xx + yy + zz], dim=-1),
        ],
        dim=-2,
    )
    best = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None].expand(*matrix.shape[:-2], 1, 4)
    quaternion = torch.nn.functional.normalize(outer.gather(-2, best).squeeze(-2), dim=-1)
    return torch.where(quaternion[..., 3:] < 0, -quaternion, quaternion)


def nearest_rotation(matrix: Tensor) -> Tensor:
    """The rotations (..., 3, 3) closest to matrices (..., 3, 3) in squared distance of the entries; no reflections.

    The values come from a singular value decomposition (Umeyama 1991). Its own gradient is infinite where singular
    values are equal, as in every matrix that is a rotation already. The gradient here is that of the result: with
    M = R S, S symmetric, a change dM turns R by (trace(S) - S)^-1 times the axial vector of R^T dM - dM^T R.

    Raises:
        ValueError: if the last dimensions are not (3, 3).
    """
    if matrix.shape[-2:] != (3, 3):
        raise ValueError(f'`matrix` must have shape (..., 3, 3), got {tuple(matrix.shape)}')
    with torch.no_grad():
        left, singular, right = torch.linalg.svd(matrix)
        signs = torch.ones_like(singular)
        signs[..., 2] = torch.linalg.det(left @ right).sign()
        rotation = (left * signs[..., None, :]) @ right
        stretch = singular * signs
        stiffness = (stretch.sum(-1, keepdim=True) - stretch).clamp_min(SMALLEST_STIFFNESS)
        compliance = (right.transpose(-1, -2) / stiffness[..., None, :]) @ right
    if not (torch.is_grad_enabled() and matrix.requires_grad):
        return rotation
    stretched = rotation.transpose(-1, -2) @ matrix
    axial = torch.stack([stretched[..., i, j] - stretched[..., j, i] for i, j in ((2, 1), (0, 2), (1, 0))], dim=-1)
    turn = (compliance @ axial[..., None]).squeeze(-1)
    turn = turn - turn.detach()  # nothing in value: only its derivative counts
    return rotation + torch.linalg.cross(rotation, turn[..., None, :].expand_as(rotation), dim=-1)
