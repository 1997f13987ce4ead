"""Features of further image networks for the bridge, beside those of the reconstruction network."""

from __future__ import annotations

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor
from torch.nn import functional as F

from pano3d.registry import MODELS

from .layers import DinoEncoder
from .loading import load_strictly, local_copy, pretrained_checkpoint, read_file, tensors_of

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


@MODELS.register_module()
class DINOv2Features(BaseModule):
    """Patch tokens of DINOv2; the defaults are ViT-L/14 with registers.

    Images are resized so that a patch of this network covers the same part of them as one of the backbone: the tokens
    lie on the backbone's grid whatever its patch size, and none is interpolated.

    Args:
        dim: channels; the bridge must have the same in `extra_dims`.
        depth: blocks.
        num_heads: attention heads.
        patch_size: pixels per patch side.
        position_grid: side of the square table of learned positions.
        register_tokens: register tokens, 0 for the networks without.
        frozen: no gradient, always in eval mode.
        init_cfg: `dict(type='Pretrained', checkpoint=...)` loads an official file, such as
            `dinov2_vitl14_reg4_pretrain.pth`.
    """

    def __init__(
        self,
        *,
        dim: int = 1024,
        depth: int = 24,
        num_heads: int = 16,
        patch_size: int = 14,
        position_grid: int = 37,
        register_tokens: int = 4,
        frozen: bool = True,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.frozen = frozen
        self.encoder = DinoEncoder(
            dim=dim,
            depth=depth,
            num_heads=num_heads,
            patch_size=patch_size,
            position_grid=position_grid,
            register_tokens=register_tokens,
        )
        self.register_buffer('image_mean', torch.tensor(IMAGE_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer('image_std', torch.tensor(IMAGE_STD).view(3, 1, 1), persistent=False)
        self.encoder.requires_grad_(not frozen)
        self.train()

    def train(self, mode: bool = True) -> DINOv2Features:
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def init_weights(self) -> None:
        """The file that `init_cfg` names, if any; the constructor's values stay otherwise.

        Raises:
            ValueError: if the file cannot be read safely or does not fit name for name and shape for shape.
        """
        checkpoint = pretrained_checkpoint(self)
        if checkpoint is None:
            super().init_weights()
        elif not self.is_init:
            path = local_copy(checkpoint)
            state = tensors_of(read_file(path), path)
            if not self.encoder.register_tokens.numel():  # files of networks without registers do not name them
                state = {'register_tokens': self.encoder.register_tokens} | state
            load_strictly(self.encoder, state, path)
            print_log(f'{path}: loaded {len(state)} weights into {type(self).__name__}', logger='current')
            self.is_init = True

    def forward(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Normed tokens (B, V, h * w, dim) of images (B, V, 3, H, W), RGB in [0, 1], on the grid (h, w)."""
        size = grid[0] * self.encoder.patch_size, grid[1] * self.encoder.patch_size
        flat = (images.flatten(0, 1) - self.image_mean) / self.image_std
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            resized = F.interpolate(flat, size, mode='bicubic', antialias=True, align_corners=False)
            tokens = self.encoder(resized)[:, self.encoder.prefix_tokens :]
        return tokens.unflatten(0, images.shape[:2])
