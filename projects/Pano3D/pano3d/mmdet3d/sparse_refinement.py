"""Views that exchange features where they see the same place: a small sparse U-Net on the predicted points."""

from __future__ import annotations

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from pano3d.models import ViewFeatures
from pano3d.models.view_features import outside
from pano3d.registry import MODELS

from .canonical_scene import SMALLEST_UNIT, UNITS
from .sparse import keep_weight_layout, require_spconv, voxelise


@MODELS.register_module()
class SparseRefinement(BaseModule):
    """Adds to G what its surroundings in 3D say, over all views: G + U(G); M, which is made of G, follows.

    The token of each patch goes to the voxel of its predicted point, tokens in one voxel are averaged, a sparse U-Net
    mixes neighbouring voxels, and every token gets the result of its voxel. Tokens without a finite point are left as
    they are. The last layer begins with zeros, so that an untrained refinement changes nothing. The points get no
    gradient.

    Args:
        dim: channels of G.
        hidden_dim: channels in the U-Net.
        voxel_size: edge of a voxel, in `unit`.
        num_levels: how often the grid is halved.
        unit: 'mean_distance', the mean distance of the valid points of a scene from the first camera, for networks that
            predict up to scale; 'metres' takes the points as they are.

    Raises:
        ImportError: if spconv is missing; says how to install it.
        ValueError: on another unit.
    """

    def __init__(
        self,
        *,
        dim: int,
        hidden_dim: int = 64,
        voxel_size: float = 0.05,
        num_levels: int = 2,
        unit: str = 'mean_distance',
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        spconv = require_spconv()  # without biases: its version for the CPU has none in prediction
        if unit not in UNITS:
            raise ValueError(f'`unit` must be one of {UNITS}, got {unit!r}')
        self.voxel_size = voxel_size
        self.num_levels = num_levels
        self.unit = unit
        levels = range(num_levels)
        self.input = nn.Linear(dim, hidden_dim)
        self.blocks = nn.ModuleList(_Block(hidden_dim, spconv.SubMConv3d, level) for level in range(num_levels + 1))
        self.downs = nn.ModuleList(
            spconv.SparseConv3d(hidden_dim, hidden_dim, 2, stride=2, bias=False, indice_key=f'down{level}')
            for level in levels
        )
        self.ups = nn.ModuleList(
            spconv.SparseInverseConv3d(hidden_dim, hidden_dim, 2, bias=False, indice_key=f'down{level}')
            for level in levels
        )
        self.mixers = nn.ModuleList(_Block(hidden_dim, spconv.SubMConv3d, level) for level in levels)
        self.output = nn.Sequential(nn.LayerNorm(hidden_dim), nn.Linear(hidden_dim, dim))
        nn.init.zeros_(self.output[1].weight)
        nn.init.zeros_(self.output[1].bias)
        keep_weight_layout(self)

    def forward(self, tokens: Tensor, views: ViewFeatures) -> Tensor:
        """G (B, V, N, C), refined.

        Args:
            tokens: G (B, V, N, C).
            views: `points` says where they are.

        Raises:
            ValueError: if it does not.
        """
        if views.points is None:
            raise ValueError('`views.points` is needed: the refinement works where the patches are in 3D')
        known = views.points.isfinite().all(-1)
        if views.extents is not None:
            known &= ~outside(views.extents, views.grid).flatten(2)
        if not known.any():
            return tokens
        with torch.autocast(tokens.device.type, enabled=False):
            change = self._change(tokens.float()[known], self._places(views.points.float(), known), known)
        scattered = torch.zeros_like(tokens)
        scattered[known] = change.to(tokens.dtype)
        return tokens + scattered

    @torch.no_grad()
    def _places(self, points: Tensor, known: Tensor) -> Tensor:
        """The known points (P, 3) in the unit."""
        if self.unit == 'metres':
            return points[known]
        distance = torch.where(known, points.norm(dim=-1), 0).flatten(1).sum(1)
        unit = (distance / known.flatten(1).sum(1).clamp_min(1)).clamp_min(SMALLEST_UNIT)
        return (points / unit[:, None, None, None])[known]

    def _change(self, tokens: Tensor, places: Tensor, known: Tensor) -> Tensor:
        """What is added to tokens (P, C) at places (P, 3)."""
        scene = known.nonzero()[:, 0]
        voxels = voxelise(places, scene, voxel_size=self.voxel_size, num_scenes=len(known))
        indices = voxels.for_halving(self.num_levels)
        shape = (indices[:, 1:].amax(0) + 1).tolist()
        features = self.input(voxels.mean(tokens))
        grid = require_spconv().SparseConvTensor(features, indices, shape, len(known))
        return self.output(self._mix(grid).features)[voxels.voxel_of_point]

    def _mix(self, grid: object) -> object:
        """The U-Net on a sparse tensor."""
        passed = []
        for block, down in zip(self.blocks, self.downs, strict=False):
            grid = block(grid)
            passed.append(grid)
            grid = down(grid)
        grid = self.blocks[-1](grid)
        for up, mixer in zip(reversed(self.ups), reversed(self.mixers), strict=True):
            finer = passed.pop()
            grid = mixer(finer.replace_feature(finer.features + up(grid).features))
        return grid


class _Block(nn.Module):
    """A residual convolution over occupied neighbours."""

    def __init__(self, dim: int, convolution: type[nn.Module], level: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.convolution = convolution(dim, dim, 3, padding=1, bias=False, indice_key=f'level{level}')

    def forward(self, grid: object) -> object:
        mixed = self.convolution(grid.replace_feature(nn.functional.gelu(self.norm(grid.features))))
        return grid.replace_feature(grid.features + mixed.features)
