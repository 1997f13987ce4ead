"""From collated samples to a batch on the device."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from pano3d.registry import MODELS


@MODELS.register_module()
class SceneDataPreprocessor(BaseDataPreprocessor):
    """Move samples to the device and stack their images (B, V, 3, H, W), RGB in [0, 1].

    It takes what mmengine's default collate function, `pseudo_collate`, makes of packed scenes: a dict of lists.
    Samples are unpacked on the device (`SceneSample.unpacked`): their depth is lifted to points there, so that few
    bytes are copied. Each gets its `images`, a view of the batch. The mean and deviation of a pretrained network are
    applied by its backbone.

    Args:
        non_blocking: whether copies to the device may overlap with computation.
    """

    def __init__(self, *, non_blocking: bool = False) -> None:
        super().__init__(non_blocking=non_blocking)

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Batch of a dict with `inputs`, (V, 3, H, W) uint8 each, and optionally `data_samples`, a SceneSample each.

        `training` changes nothing: augmentation belongs to the pipeline.

        Raises:
            ValueError: if an image tensor is not of that kind, the shapes differ, or there are not as many samples.
        """
        inputs, samples = data['inputs'], data.get('data_samples')
        _check_inputs(inputs)
        if samples is not None and len(samples) != len(inputs):
            raise ValueError(f'{len(inputs)} image tensors but {len(samples)} data samples')
        images = torch.stack(self.cast_data(inputs)).float() / 255
        if samples is None:
            return {'inputs': images, 'data_samples': None}
        samples = [sample.unpacked() for sample in self.cast_data(samples)]
        for sample, views in zip(samples, images, strict=True):
            sample.images = views
        return {'inputs': images, 'data_samples': samples}


def _check_inputs(inputs: list[Tensor]) -> None:
    for views in inputs:
        if views.dtype != torch.uint8 or views.ndim != 4 or views.shape[1] != 3:
            raise ValueError(f'images must be (V, 3, H, W) uint8, got {tuple(views.shape)} {views.dtype}')
    shapes = sorted({tuple(views.shape) for views in inputs})
    if len(shapes) > 1:
        raise ValueError(
            f'scenes of one batch must have the same number and size of views, got {shapes}; '
            'use `batch_size=1`, or views of one number (RandomStrideViews) and size (ResizeCrop)'
        )
