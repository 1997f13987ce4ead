"""How the predicted set becomes labels; one class per merging policy."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from mmengine.model import BaseModule
from torch import Tensor
from torch.nn import functional as F

from pano3d.functional.merging import merge_by_overlap, semantic_probabilities, winner_takes_all
from pano3d.registry import MODELS
from pano3d.structures import LabelSpace, PanopticMap, SceneSample

from .query_decoder import QueryPrediction


class ReadOut(BaseModule, ABC):
    """Resizes the masks bilinearly to the input, so that a mask pixel is a point-map pixel, and labels every pixel."""

    @abstractmethod
    def merge(self, classes: Tensor, masks: Tensor, is_stuff: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (K, C + 1) and (K, V, H, W) to category, instance (V, H, W) and a score per query (K,)."""

    def forward(
        self, prediction: QueryPrediction, image_size: tuple[int, int], label_space: LabelSpace, sample: SceneSample
    ) -> SceneSample:
        """A copy of `sample` with `pred_panoptic`, `pred_semantic` and `pred_segments`.

        Args:
            prediction: the last decoder stage for this scene alone, without batch dimension.
            image_size: (H, W) of the views.
            label_space: says which classes are stuff.
            sample: the scene.
        """
        masks = F.interpolate(prediction.masks.float(), image_size, mode='bilinear', align_corners=False)
        classes = prediction.classes.float()
        category, instance, score = self.merge(classes, masks, label_space.is_stuff.to(masks.device))
        labelled = sample.clone()
        labelled.pred_panoptic = PanopticMap(category, instance)
        labelled.pred_semantic = semantic_probabilities(classes, masks).transpose(0, 1)
        labelled.pred_segments = _segments(category, instance, score, classes)
        return labelled


def _segments(category: Tensor, instance: Tensor, score: Tensor, classes: Tensor) -> list[dict[str, int | float]]:
    """The segments that occur; a stuff segment scores as the best query of its class."""
    label = classes[:, :-1].argmax(-1)
    pairs = torch.stack([category, instance]).flatten(1).unique(dim=1).T.tolist()
    return [
        {
            'category': c,
            'instance': i,
            'score': float(score[i - 1] if i else score[label == c].max()),
        }
        for c, i in pairs
        if c >= 0
    ]


@MODELS.register_module()
class OverlapReadOut(ReadOut):
    """Mask2Former's panoptic merging with correct stuff merging, see `merge_by_overlap`.

    Args:
        score_threshold: least class score of a query.
        overlap_threshold: least share of its mask that a query must keep.
    """

    def __init__(self, *, score_threshold: float = 0.8, overlap_threshold: float = 0.8) -> None:
        super().__init__()
        self.score_threshold = score_threshold
        self.overlap_threshold = overlap_threshold

    def merge(self, classes: Tensor, masks: Tensor, is_stuff: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return merge_by_overlap(
            classes,
            masks,
            is_stuff,
            score_threshold=self.score_threshold,
            overlap_threshold=self.overlap_threshold,
        )


@MODELS.register_module()
class WinnerTakesAllReadOut(ReadOut):
    """Every pixel to its best query, see `winner_takes_all`: nothing stays void."""

    def merge(self, classes: Tensor, masks: Tensor, is_stuff: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return winner_takes_all(classes, masks, is_stuff)
