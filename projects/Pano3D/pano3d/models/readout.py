"""How the predicted set becomes labels; one class per merging policy."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from mmengine.model import BaseModule
from torch import Tensor

from pano3d.functional.components import split_components
from pano3d.functional.merging import (
    NOBODY,
    SceneMasks,
    merge_by_overlap,
    owned_labels,
    owned_segments,
    semantic_probabilities,
    winner_takes_all,
)
from pano3d.registry import MODELS
from pano3d.structures import LabelSpace, PanopticMap, SceneSample

from .queries import QueryPrediction
from .view_features import outside


class ReadOut(BaseModule, ABC):
    """Resizes the masks bilinearly to the input, so that a mask pixel is a point-map pixel, and labels every pixel.

    Masks are resized some views at a time: that takes about (3 K + C) x H x W x 4 bytes per view, however many views
    there are. The labels do not depend on the number.

    Args:
        views_per_chunk: views at a time.
        offload: device for what the read-out returns, chunk by chunk, such as 'cpu'; None leaves it with the masks.
    """

    def __init__(self, *, views_per_chunk: int, offload: str | None) -> None:
        super().__init__()
        if views_per_chunk < 1:
            raise ValueError(f'`views_per_chunk` must be at least 1, got {views_per_chunk}')
        self.views_per_chunk = views_per_chunk
        self.offload = offload

    @abstractmethod
    def owners(self, classes: Tensor, masks: SceneMasks, is_stuff: Tensor) -> Tensor:
        """The query that owns each pixel, (V, H, W), -1 for none, from class logits (K, C + 1) and masks."""

    @torch.no_grad()
    def forward(
        self, prediction: QueryPrediction, image_size: tuple[int, int], label_space: LabelSpace, sample: SceneSample
    ) -> SceneSample:
        """A copy of `sample` with `pred_panoptic`, `pred_semantic` and `pred_segments`.

        Args:
            prediction: the last decoder stage for this scene alone, without batch dimension.
            image_size: (H, W) of the views, or of the canvas that views of several sizes lie on; what is beside a view
                is void and has no probability.
            label_space: says which classes are stuff.
            sample: the scene.
        """
        masks = SceneMasks(prediction.masks, image_size, self.views_per_chunk, prediction.extents)
        classes, is_stuff = prediction.classes.float(), label_space.is_stuff.to(prediction.masks.device)
        owner = self.owners(classes, masks, is_stuff)
        if masks.extents is not None:
            own_sizes = torch.tensor(masks.own_sizes(), device=owner.device)
            owner = owner.masked_fill(outside(own_sizes, image_size), NOBODY)
        if self.offload is not None:
            owner = owner.to(self.offload)
        labelled = sample.clone()
        labelled.pred_panoptic = PanopticMap(*owned_labels(owner, classes, is_stuff))
        labelled.pred_semantic = self._semantic(classes, masks)
        labelled.pred_segments = [
            {'category': category, 'instance': instance, 'score': score}
            for category, instance, score in zip(
                *(column.tolist() for column in owned_segments(owner, classes, is_stuff)), strict=True
            )
        ]
        return labelled

    def _semantic(self, classes: Tensor, masks: SceneMasks) -> Tensor:
        """(V, C, H, W), float16."""
        shape = (masks.logits.shape[1], classes.shape[-1] - 1, *masks.size)
        semantic = torch.empty(shape, dtype=torch.float16, device=self.offload or classes.device)
        for probability, place in zip(masks, semantic.split(self.views_per_chunk), strict=True):
            place.copy_(semantic_probabilities(classes, probability).transpose(0, 1))
        return semantic


@MODELS.register_module()
class OverlapReadOut(ReadOut):
    """Mask2Former's panoptic merging with correct stuff merging, see `merge_by_overlap`.

    Args:
        score_threshold: least class score of a query.
        overlap_threshold: least share of its mask that a query must keep.
        mask_threshold: a mask is on where its probability is at least this.
        iterations: with more than one, pixels of dropped queries go to the next best.
        views_per_chunk: see `ReadOut`.
        offload: see `ReadOut`.
    """

    def __init__(
        self,
        *,
        score_threshold: float = 0.8,
        overlap_threshold: float = 0.8,
        mask_threshold: float = 0.5,
        iterations: int = 1,
        views_per_chunk: int = 4,
        offload: str | None = None,
    ) -> None:
        super().__init__(views_per_chunk=views_per_chunk, offload=offload)
        if iterations < 1:
            raise ValueError(f'`iterations` must be at least 1, got {iterations}')
        self.score_threshold = score_threshold
        self.overlap_threshold = overlap_threshold
        self.mask_threshold = mask_threshold
        self.iterations = iterations

    def owners(self, classes: Tensor, masks: SceneMasks, is_stuff: Tensor) -> Tensor:
        return merge_by_overlap(
            classes,
            masks,
            is_stuff,
            score_threshold=self.score_threshold,
            overlap_threshold=self.overlap_threshold,
            mask_threshold=self.mask_threshold,
            iterations=self.iterations,
        )


@MODELS.register_module()
class WinnerTakesAllReadOut(ReadOut):
    """Every pixel to its best query, see `winner_takes_all`: nothing stays void.

    Args:
        views_per_chunk: see `ReadOut`.
        offload: see `ReadOut`.
    """

    def __init__(self, *, views_per_chunk: int = 4, offload: str | None = None) -> None:
        super().__init__(views_per_chunk=views_per_chunk, offload=offload)

    def owners(self, classes: Tensor, masks: SceneMasks, is_stuff: Tensor) -> Tensor:
        return winner_takes_all(classes, masks)


@MODELS.register_module()
class ConnectedReadOut(BaseModule):
    """Another read-out, whose instances are then cut into parts that hang together in space, see `split_components`.

    A part has the category and the score of its instance.

    Args:
        readout: config of the other read-out.
        voxel_size: edge of a voxel in the unit of the predicted points: metres where the backbone is metric.
        radius: voxels that far apart still hang together.
        min_voxels: smaller parts stay with the largest of their instance.
    """

    def __init__(self, *, readout: dict, voxel_size: float, radius: int = 2, min_voxels: int = 30) -> None:
        super().__init__()
        self.readout = MODELS.build(readout)
        self.voxel_size = voxel_size
        self.radius = radius
        self.min_voxels = min_voxels

    def forward(
        self, prediction: QueryPrediction, image_size: tuple[int, int], label_space: LabelSpace, sample: SceneSample
    ) -> SceneSample:
        """As `ReadOut.forward`, for a sample that has `pred_reconstruction`.

        Raises:
            ValueError: if it has not.
        """
        if 'pred_reconstruction' not in sample:
            raise ValueError('`sample` must have `pred_reconstruction`: instances are cut in space')
        labelled = self.readout(prediction, image_size, label_space, sample)
        category, instance = labelled.pred_panoptic.category, labelled.pred_panoptic.instance
        geometry = sample.pred_reconstruction
        split, former = split_components(
            instance,
            geometry.points.to(instance.device),
            geometry.valid.to(instance.device),
            voxel_size=self.voxel_size,
            radius=self.radius,
            min_voxels=self.min_voxels,
        )
        labelled.pred_panoptic = PanopticMap(category, split)
        whole = {segment['instance']: segment for segment in labelled.pred_segments}
        first = int(instance.max()) + 1
        parts = [{**whole[parent], 'instance': first + place} for place, parent in enumerate(former.tolist())]
        labelled.pred_segments = [*labelled.pred_segments, *parts]
        return labelled
