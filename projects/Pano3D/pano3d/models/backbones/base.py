"""The contract between a pretrained reconstruction network and everything built on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from mmengine.model import BaseModule
from torch import Tensor

from pano3d.structures import Reconstruction


@dataclass(frozen=True)
class Tokens:
    """Patch tokens of V views on a regular grid.

    Args:
        patches: (B, V, h * w, C), row by row.
        grid: (h, w).
        layers: states that only the backbone's own later stages read; empty where they need none.
    """

    patches: Tensor
    grid: tuple[int, int]
    layers: tuple[Tensor, ...] = ()


GeometryPrediction = dict[str, Tensor]
"""What the network's heads put out, under the backbone's own names; its geometry criterion reads them."""


class Backbone(BaseModule, ABC):
    """A reconstruction network: `encode` -> E, `decode` -> F, `regress` -> raw heads, `reconstruct` -> geometry.

    Images are RGB in [0, 1], (B, V, 3, H, W), H and W multiples of `patch_size`; each backbone normalises them as its
    official code does.

    Attributes:
        patch_size: pixels per patch side.
        encoder_dim: channels of E.
        decoder_dim: channels of F.
        has_memory: whether views can be added one after another (online networks).
    """

    patch_size: int
    encoder_dim: int
    decoder_dim: int
    has_memory: bool = False

    @abstractmethod
    def encode(self, images: Tensor) -> Tokens:
        """Monocular features E_i."""

    @abstractmethod
    def decode(self, encoded: Tokens) -> Tokens:
        """Cross-view features F_i."""

    @abstractmethod
    def regress(self, encoded: Tokens, decoded: Tokens, image_size: tuple[int, int]) -> GeometryPrediction:
        """The network's own 3D heads; `image_size` is (H, W)."""

    @abstractmethod
    def reconstruct(self, prediction: GeometryPrediction) -> Reconstruction:
        """Point maps and cameras (B, V, ...) in the frame of the first view."""

    @abstractmethod
    def encoder_modules(self) -> list[str]:
        """Names of the submodules that make E; they are what `frozen_encoder` freezes."""

    def check_images(self, images: Tensor) -> None:
        """Refuse what no patch grid fits.

        Raises:
            ValueError: on a wrong shape or a size that is no multiple of the patch.
        """
        if images.ndim != 5 or images.shape[2] != 3:
            raise ValueError(f'`images` must have shape (B, V, 3, H, W), got {tuple(images.shape)}')
        height, width = images.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f'image height and width must be multiples of the patch size {self.patch_size}, got {height}x{width}; '
                'resize or crop the images (the ResizeCrop transform does)'
            )
