"""The contract between a pretrained reconstruction network and everything built on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor

from pano3d.models.loading import load_strictly, local_copy, pretrained_checkpoint, read_file, tensors_of
from pano3d.structures import Reconstruction

MARGIN = 0.5
"""Interpolation may leave [0, 1] a little; 8-bit and normalised images leave it by more than this."""


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

    @abstractmethod
    def geometry_heads(self) -> list[str]:
        """Names of the submodules and parameters that only the 3D heads have; what is neither these nor E makes F."""

    def unused_weights(self) -> dict[str, str]:
        """Parts of an official file that this network has no place for: prefix of their names -> reason."""
        return {}

    def translate_official(self, content: object, path: Path) -> dict[str, Tensor]:
        """The content of an official file under the names of this module; a family with other names overrides it."""
        return tensors_of(content, path)

    def init_weights(self) -> None:
        """Load the official file that `init_cfg=dict(type='Pretrained', checkpoint=PATH_OR_ADDRESS)` names, strictly.

        mmengine's own rule applies to any other `init_cfg`; without one the constructor's values stay.

        Raises:
            ValueError: if the file is not that of this network, see `load_official`.
        """
        checkpoint = pretrained_checkpoint(self)
        if checkpoint is None:
            super().init_weights()
        elif not self.is_init:
            self.load_official(checkpoint)
            self.is_init = True

    def load_official(self, checkpoint: str) -> None:
        """Load a released file (.safetensors, or PyTorch without arbitrary pickles) from a path or http(s) address.

        Raises:
            ValueError: if the file cannot be read safely or does not fit name for name and shape for shape.
        """
        path = local_copy(checkpoint)
        state = self.translate_official(read_file(path), path)
        for prefix, reason in self.unused_weights().items():
            unused = [name for name in state if name.startswith(prefix)]
            if unused:
                print_log(f'{path}: left out {len(unused)} weights {prefix}* ({reason})', logger='current')
            state = {name: value for name, value in state.items() if not name.startswith(prefix)}
        load_strictly(self, state, path)
        print_log(f'{path}: loaded {len(state)} weights into {type(self).__name__}', logger='current')

    def check_images(self, images: Tensor) -> None:
        """Refuse what no patch grid fits.

        Raises:
            TypeError: if the images are no tensor, such as a list of views of several sizes.
            ValueError: on a wrong shape, no view, a size that is no multiple of the patch, or values that are not
                finite or far from [0, 1].
        """
        if not isinstance(images, Tensor):
            raise TypeError(
                f'`images` must be one tensor (B, V, 3, H, W), got {type(images).__name__}; views of several sizes '
                'must be resized to one (the ResizeCrop transform does), or encoded apart where the backbone takes '
                'several sizes'
            )
        if images.ndim != 5 or images.shape[2] != 3 or not images.numel():
            raise ValueError(f'`images` must have shape (B, V, 3, H, W) with V >= 1, got {tuple(images.shape)}')
        height, width = images.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f'image height and width must be multiples of the patch size {self.patch_size}, got {height}x{width}; '
                'resize or crop the images (the ResizeCrop transform does)'
            )
        lowest, highest = images.detach().aminmax()  # both NaN if any value is
        if not (lowest >= -MARGIN and highest <= 1 + MARGIN):
            finite = images.isfinite().flatten(2).all(2)
            if not finite.all():
                scene, view = (~finite).nonzero()[0].tolist()
                raise ValueError(f'`images` must be finite; view {view} of scene {scene} has NaN or infinite values')
            raise ValueError(
                f'`images` must be RGB in [0, 1], got values from {lowest:.3g} to {highest:.3g}; divide 8-bit images '
                'by 255 and leave the normalisation to the backbone'
            )


class OnlineBackbone(Backbone):
    """A network that takes views one after another: a few keyframes fill a memory, any view is rendered from it.

    The memory is a value: `update` returns a new one and leaves the old one as it was. `decode` does both steps for a
    whole scene.

    Attributes:
        max_keyframes: views in the memory at most, in eval mode.
        update_batches: how many views enter together, call by call, in eval mode; the last number repeats.
    """

    has_memory = True
    max_keyframes: int
    update_batches: tuple[int, ...]

    @abstractmethod
    def choose_keyframes(self, views: int) -> list[int]:
        """Which of so many views enter the memory where nobody else says it; the first one begins.

        In eval mode they are evenly spread, in training mode drawn at random (from torch's global generator).
        """

    @abstractmethod
    def fill(self, keyframes: Sequence[Tokens]) -> tuple[Any, tuple[Tokens, ...]]:
        """The memory of a scene from all its keyframes, in the way of the mode: training or eval.

        Args:
            keyframes: stacks of views, each of its own size; the first view of the first stack is the reference.

        Returns:
            The memory, and F of the views as they were when they entered, stack by stack.
        """

    @abstractmethod
    def update(self, memory: Any | None, encoded: Tokens | Sequence[Tokens]) -> tuple[Any, tuple[Tokens, ...]]:
        """Let views enter the memory.

        Args:
            memory: what an earlier call returned; None begins a scene, whose first view is the reference.
            encoded: views of one size, or several stacks of views, each of its own size.

        Returns:
            The new memory, and the decoded tokens of the views, stack by stack.
        """

    @abstractmethod
    def render(self, memory: Any, encoded: Tokens) -> Tokens:
        """Cross-view features F_i of views that read the memory and leave nothing in it.

        Raises:
            ValueError: if the memory is empty.
        """
