"""Fusion of token maps from coarse to fine: the dense prediction transformer (Ranftl et al. 2021)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class ResidualConvUnit(nn.Module):
    """Two 3x3 convolutions on the rectified input, added to a skip.

    Args:
        features: channels.
        rectified_skip: the skip is relu(x) (networks trained with an in-place ReLU, such as VGGT) instead of x.
    """

    def __init__(self, *, features: int, rectified_skip: bool) -> None:
        super().__init__()
        self.rectified_skip = rectified_skip
        self.conv1 = nn.Conv2d(features, features, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(features, features, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        rectified = F.relu(x)
        residual = self.conv2(F.relu(self.conv1(rectified), inplace=True))
        return residual.add_(rectified if self.rectified_skip else x)


class FeatureFusion(nn.Module):
    """Add the next finer level to the coarser result, refine, enlarge.

    Args:
        features: channels.
        has_skip: whether a finer level comes in; the coarsest block has none.
        rectified_skip: see `ResidualConvUnit`.
    """

    def __init__(self, *, features: int, has_skip: bool = True, rectified_skip: bool) -> None:
        super().__init__()
        if has_skip:
            self.resConfUnit1 = ResidualConvUnit(features=features, rectified_skip=rectified_skip)
        self.resConfUnit2 = ResidualConvUnit(features=features, rectified_skip=rectified_skip)
        self.out_conv = nn.Conv2d(features, features, kernel_size=1)

    def forward(self, x: Tensor, *, skip: Tensor | None = None, size: tuple[int, int]) -> Tensor:
        """Coarse map (N, C, h, w) and optionally a skip of the same shape -> (N, C, *size)."""
        if skip is not None:
            x = self.resConfUnit1(skip).add_(x)
        # the 1x1 convolution commutes with the resizing and is cheaper before it
        return resize(self.out_conv(self.resConfUnit2(x)), size)


class PyramidFusion(nn.Module):
    """Four levels, fine to coarse, to one map of twice the finest level's size.

    Args:
        channels: channels of the four levels, fine to coarse.
        features: channels of the result.
        rectified_skip: see `ResidualConvUnit`.
        crop: where the coarsest level is half of an odd size, rounded up, double it and cut it at the bottom and right
            (DUSt3R) instead of resizing it to the next finer level (VGGT).
    """

    def __init__(
        self, *, channels: tuple[int, int, int, int], features: int, rectified_skip: bool, crop: bool = False
    ) -> None:
        super().__init__()
        self.crop = crop
        for level, width in enumerate(channels, start=1):
            self.add_module(f'layer{level}_rn', nn.Conv2d(width, features, kernel_size=3, padding=1, bias=False))
            fusion = FeatureFusion(features=features, has_skip=level < 4, rectified_skip=rectified_skip)
            self.add_module(f'refinenet{level}', fusion)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Maps (N, channels[i], h_i, w_i), fine to coarse -> (N, features, 2 h_0, 2 w_0)."""
        one, two, three, four = (self.get_submodule(f'layer{level}_rn')(x) for level, x in enumerate(levels, start=1))
        height, width = three.shape[-2:]
        size = (2 * four.shape[-2], 2 * four.shape[-1]) if self.crop else (height, width)
        fused = self.refinenet4(four, size=size)[..., :height, :width]
        fused = self.refinenet3(fused, skip=three, size=two.shape[-2:])
        fused = self.refinenet2(fused, skip=two, size=one.shape[-2:])
        return self.refinenet1(fused, skip=one, size=(2 * one.shape[-2], 2 * one.shape[-1]))


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear with aligned corners, as all DPT heads resize."""
    return F.interpolate(x, size=size, mode='bilinear', align_corners=True)
