"""The baseline that never looks at the picture: the most frequent layout of the training rooms."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from mmengine.model import BaseModel
from torch import Tensor

from pano3d.registry import MODELS
from pano3d.structures import LabelSpace, PanopticMap, Reconstruction, SceneSample


@MODELS.register_module()
class LayoutBaseline(BaseModel):
    """Predicts for every view the most frequent class and the median depth of each pixel over the training views.

    A thing class is one instance. What a learned model has to beat.

    Args:
        label_space: name of the classes.
        image_size: (H, W) of the views.
        data_preprocessor: config; normally `SceneDataPreprocessor`.
    """

    def __init__(self, *, label_space: str, image_size: tuple[int, int], data_preprocessor: dict | None = None) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        self.label_space = LabelSpace.load(label_space)
        self.register_buffer('category', torch.full(tuple(image_size), -1, dtype=torch.long))
        self.register_buffer('depth', torch.ones(tuple(image_size)))

    def fit(self, samples: Iterable[SceneSample]) -> None:
        """Count the layout of `samples`, all with ground truth of `image_size`.

        Raises:
            ValueError: without any sample.
        """
        votes = torch.zeros(self.label_space.num_classes + 1, *self.category.shape)
        depths = []
        for sample in samples:
            category = sample.gt_panoptic.category
            votes.scatter_add_(0, category.long() + 1, torch.ones(category.shape))
            depth = sample.gt_reconstruction.depth
            depths.append(torch.where(sample.gt_reconstruction.valid, depth, torch.nan))
        if not depths:
            raise ValueError('the layout baseline needs at least one training sample')
        self.category = votes[1:].argmax(0)
        median = torch.cat(depths).nanmedian(0).values
        self.depth = torch.where(torch.isfinite(median), median, torch.cat(depths).nanmedian())

    def forward(
        self, inputs: Tensor, data_samples: list[SceneSample] | None = None, mode: str = 'tensor'
    ) -> list[SceneSample]:
        """mmengine's entry; only `mode='predict'` means anything here.

        Raises:
            ValueError: on another mode.
        """
        if mode != 'predict':
            raise ValueError(f"the layout baseline has nothing to train: `mode` must be 'predict', got {mode!r}")
        return [self._predict(sample) for sample in data_samples or []]

    def _predict(self, sample: SceneSample) -> SceneSample:
        truth = sample.gt_reconstruction
        views = truth.valid.shape[0]
        category = self.category.expand(views, -1, -1)
        is_thing = ~self.label_space.is_stuff.to(category.device)[category]
        result = sample.clone()
        result.pred_panoptic = PanopticMap(category, torch.where(is_thing, category + 1, 0))
        one_hot = torch.nn.functional.one_hot(category, self.label_space.num_classes)
        result.pred_semantic = one_hot.permute(0, 3, 1, 2).float()
        result.pred_reconstruction = Reconstruction.from_depth(
            self.depth.expand(views, -1, -1),
            truth.intrinsics,
            torch.eye(4, device=category.device).expand(views, -1, -1),
        )
        return result
