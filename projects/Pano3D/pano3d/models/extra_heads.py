"""Further tasks on the features and the geometry of the model, beside the panoptic head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from mmengine.model import BaseModule
from torch import Tensor

from pano3d.structures import Reconstruction, SceneSample

from .view_features import ViewFeatures, outside

if TYPE_CHECKING:
    from .pano3d import Pano3D, SceneOutput


class ExtraHead(BaseModule, ABC):
    """A head of one more task, an entry of `Pano3D`'s `extra_heads`.

    It sees features in float32; what it sends back into F is multiplied by gamma, as the gradient of the segmentation
    is. The geometry is that of the network without gradient: a head moves features, not points.
    """

    @abstractmethod
    def loss(
        self, views: ViewFeatures, reconstruction: Reconstruction, samples: Sequence[SceneSample]
    ) -> dict[str, Tensor]:
        """Terms of the loss over B scenes, unweighted.

        Args:
            views: E, F and further features of V views.
            reconstruction: the predicted one, (B, V, ...).
            samples: the scenes with ground truth.
        """

    @abstractmethod
    def predict(self, views: ViewFeatures, reconstruction: Reconstruction, samples: Sequence[SceneSample]) -> list[Any]:
        """What it finds in each scene; the model stores it as `pred_<task>` of the sample."""


def extra_terms(
    model: Pano3D, output: SceneOutput, samples: Sequence[SceneSample], originals: Sequence[SceneSample]
) -> dict[str, dict[str, Tensor]]:
    """Terms of all extra heads by task.

    Args:
        model: its heads and its backbone are asked.
        output: one pass.
        samples: what is trained on: which pixels of the ground truth count.
        originals: the samples as they came, with labels of exactly the views of the output.
    """
    if not model.extra_heads:
        return {}
    seen = [_labelled(sample, original) for sample, original in zip(samples, originals, strict=True)]
    with torch.autocast(output.views.device.type, enabled=False):
        with torch.no_grad():
            reconstruction = _within(output.views, model.backbone.reconstruct(output.geometry)).detach()
        return {
            task: head.loss(model.watched(task, output.views).float(), reconstruction, seen)
            for task, head in model.extra_heads.items()
        }


@torch.no_grad()
def with_extra_predictions(
    model: Pano3D, views: ViewFeatures, reconstruction: Reconstruction, samples: Sequence[SceneSample]
) -> list[SceneSample]:
    """Copies of the samples with `pred_<task>` of every extra head."""
    results = [sample.clone() for sample in samples]
    with torch.autocast(views.device.type, enabled=False):
        for task, head in model.extra_heads.items():
            found = head.predict(views.float(), reconstruction, samples)
            for sample, prediction in zip(results, found, strict=True):
                sample.set_field(prediction, f'pred_{task}')
    return results


def _within(views: ViewFeatures, reconstruction: Reconstruction) -> Reconstruction:
    """Without what is beside views of several sizes."""
    if views.extents is None:
        return reconstruction
    canvas = tuple(reconstruction.valid.shape[-2:])
    beside = outside(views.extents * (canvas[0] // views.grid[0]), canvas)
    return replace(reconstruction, valid=reconstruction.valid & ~beside)


def _labelled(sample: SceneSample, original: SceneSample) -> SceneSample:
    """The sample with the labels of the original, so that labels and points are of the same views."""
    result = sample.new()
    if 'gt_panoptic' in original:
        result.gt_panoptic = original.gt_panoptic
    return result
