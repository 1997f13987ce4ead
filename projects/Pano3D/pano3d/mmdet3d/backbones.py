"""Our reconstruction networks as image backbones of detectors of mmdet3d; nothing of mmdet3d is imported here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from pano3d.models.backbones import Backbone, DUSt3RBackbone, MUSt3RBackbone, Pi3Backbone, Tokens, VGGTBackbone
from pano3d.registry import MODELS

SOURCES = ('encoder', 'decoder')


class ImageFeatures(BaseModule):
    """A reconstruction network that gives feature maps for a neck: a tuple of (N, C, h, w), row by row the patches.

    Images are (N, 3, H, W), where each `num_views` in succession are one scene, or (B, V, 3, H, W); the maps of all
    views lie one behind the other, N = B * V. H and W must be multiples of the patch size, colours RGB.

    The network normalises the images itself. So the data preprocessor either leaves them in [0, 1] (`mean=[0, 0, 0]`,
    `std=[255, 255, 255]`), or `mean` and `std` here repeat what it does, and it is undone.

    Args:
        network: arguments of the network, without `type`; `init_cfg` in it loads an official file.
        sources: what makes a map each, in this order: 'encoder' is E, 'decoder' F. Parts that no source needs are
            neither run nor trained, as are the 3D heads.
        num_views: views of a scene in a batch (N, 3, H, W).
        frozen_encoder: keep the monocular encoder as it was pretrained: no gradient, always in eval mode.
        mean: (3,), what the data preprocessor subtracts from 8-bit RGB; None: images come in [0, 1].
        std: (3,), what it divides by afterwards.

    Raises:
        ValueError: on an unknown or repeated source, or `mean` without `std`.
    """

    network_class: type[Backbone]

    def __init__(
        self,
        *,
        network: Mapping[str, Any],
        sources: Sequence[str] = ('decoder',),
        num_views: int = 1,
        frozen_encoder: bool = True,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if not sources or set(sources) - set(SOURCES) or len(set(sources)) < len(sources):
            raise ValueError(f'`sources` must be some of {SOURCES}, each once, got {tuple(sources)}')
        if (mean is None) != (std is None):
            raise ValueError(f'`mean` and `std` belong together, got {mean} and {std}')
        if num_views < 1:
            raise ValueError(f'`num_views` must be at least 1, got {num_views}')
        self.network = self.network_class(**network)
        self.sources = tuple(sources)
        self.num_views = num_views
        self.frozen_encoder = frozen_encoder
        mean, std = mean or (0.0, 0.0, 0.0), std or (255.0, 255.0, 255.0)
        self.register_buffer('mean', torch.tensor(mean).view(3, 1, 1) / 255, persistent=False)
        self.register_buffer('std', torch.tensor(std).view(3, 1, 1) / 255, persistent=False)
        for name, parameter in self.network.named_parameters():
            if not self._is_trained(name):
                parameter.requires_grad_(False)
        self.train()

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the maps: `in_channels` of the neck."""
        return tuple(getattr(self.network, f'{source}_dim') for source in self.sources)

    def train(self, mode: bool = True) -> ImageFeatures:
        super().train(mode)
        if self.frozen_encoder:
            for module in self._encoder():
                module.eval()
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Maps of all views, (N, C, H / patch_size, W / patch_size) for each source.

        Raises:
            ValueError: if the images are no multiple of the views or of the patch, or not in [0, 1] once what the data
                preprocessor did is undone.
        """
        scenes = self._scenes(images) * self.std + self.mean
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen_encoder):
            try:
                encoded = self.network.encode(scenes)
            except ValueError as error:
                raise ValueError(
                    f'{error}. Expected in the config: data_preprocessor=dict(mean=[0, 0, 0], std=[255, 255, 255], '
                    f'pad_size_divisor={self.network.patch_size}), or its `mean` and `std` in {type(self).__name__}'
                ) from error
        tokens = {'encoder': encoded}
        if 'decoder' in self.sources:
            tokens['decoder'] = self._decode(encoded)
        return tuple(
            tokens[source].patches.flatten(0, 1).mT.unflatten(2, encoded.grid).contiguous() for source in self.sources
        )

    def _decode(self, encoded: Tokens) -> Tokens:
        return self.network.decode(encoded)

    def _scenes(self, images: Tensor) -> Tensor:
        """(B, V, 3, H, W)."""
        if images.ndim != 4:
            return images  # the network refuses what is none
        if len(images) % self.num_views:
            raise ValueError(
                f'{len(images)} images are no scenes of {self.num_views} views; set `num_views` of '
                f'{type(self).__name__} to the views of a sample'
            )
        return images.unflatten(0, (-1, self.num_views))

    def _encoder(self) -> list[nn.Module]:
        return [self.network.get_submodule(name) for name in self.network.encoder_modules()]

    def _is_trained(self, name: str) -> bool:
        """Whether a parameter of the network is to learn, by its name."""

        def within(parts: list[str]) -> bool:
            return any(name == part or name.startswith(f'{part}.') for part in parts)

        if within(self.network.encoder_modules()):
            return not self.frozen_encoder
        return 'decoder' in self.sources and not within(self.network.geometry_heads())


@MODELS.register_module()
class VGGTFeatures(ImageFeatures):
    """VGGT, see `ImageFeatures`; `network` is of `VGGTBackbone`."""

    network_class = VGGTBackbone


@MODELS.register_module()
class Pi3Features(ImageFeatures):
    """Pi3, see `ImageFeatures`; `network` is of `Pi3Backbone`."""

    network_class = Pi3Backbone


@MODELS.register_module()
class MUSt3RFeatures(ImageFeatures):
    """MUSt3R, see `ImageFeatures`; `network` is of `MUSt3RBackbone`."""

    network_class = MUSt3RBackbone


@MODELS.register_module()
class DUSt3RFeatures(ImageFeatures):
    """DUSt3R, see `ImageFeatures`; `network` is of `DUSt3RBackbone`. A single view is paired with itself."""

    network_class = DUSt3RBackbone

    def _decode(self, encoded: Tokens) -> Tokens:
        if encoded.patches.shape[1] > 1:
            return super()._decode(encoded)
        pair = super()._decode(Tokens(encoded.patches.expand(-1, 2, -1, -1), encoded.grid))
        return Tokens(pair.patches[:, :1], pair.grid)
