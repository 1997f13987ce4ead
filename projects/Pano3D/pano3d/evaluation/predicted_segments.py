"""What instance protocols share: the segments of a prediction with their scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pano3d.structures import MaskProposals, PanopticMap

from .protocol_metric import required
from .shared_sample import derived


@dataclass(frozen=True)
class ScoredSegments:
    """The segments of a panoptic map.

    Args:
        index: (...) int64, the segment of every element, -1 for void.
        category: (S,) int64.
        score: (S,) float64.
    """

    index: Tensor
    category: Tensor
    score: Tensor

    def as_proposals(self) -> MaskProposals:
        """One mask per segment, by decreasing score; of equal scores the larger first, whatever the ids are."""
        size = torch.bincount(self.index[self.index >= 0].flatten(), minlength=len(self.score))
        order = size.argsort(descending=True, stable=True)
        order = order[self.score[order].argsort(descending=True, stable=True)]
        masks = self.index == order.view(-1, *[1] * self.index.ndim)
        return MaskProposals(masks, self.category[order], self.score[order])


def scored_segments(sample: Mapping[str, Any]) -> ScoredSegments:
    """`pred_panoptic` with the scores of `pred_segments`, on the CPU.

    Raises:
        ValueError: if one of them is missing, an element belongs to no listed segment, a segment is listed twice, an
            instance is negative, or a score is not finite.
    """
    return derived(sample, 'segments', lambda: _segments(sample))


def _segments(sample: Mapping[str, Any]) -> ScoredSegments:
    panoptic = required(sample, 'pred_panoptic', PanopticMap).to('cpu')
    segments = required(sample, 'pred_segments', list)
    category = torch.tensor([segment['category'] for segment in segments], dtype=torch.int64)
    instance = torch.tensor([segment['instance'] for segment in segments], dtype=torch.int64)
    score = torch.tensor([segment['score'] for segment in segments], dtype=torch.float64)
    if not score.isfinite().all():
        raise ValueError(f'`pred_segments` must have finite scores, got {score.tolist()}')

    if panoptic.instance.numel() and panoptic.instance.min() < 0:
        raise ValueError(f'`pred_panoptic` must not have negative instances, got {int(panoptic.instance.min())}')
    labelled = panoptic.category >= 0
    stride = int(torch.cat([panoptic.instance.flatten(), instance, torch.zeros(1, dtype=torch.int64)]).max()) + 1
    listed, order = (category * stride + instance).sort()
    if (listed[1:] == listed[:-1]).any():
        raise ValueError('`pred_segments` lists a segment twice: one entry per (category, instance)')
    keys = panoptic.category[labelled].long() * stride + panoptic.instance[labelled]
    place = torch.searchsorted(listed, keys)
    known = torch.cat([listed, listed.new_full((1,), -1)])[place] == keys
    if not known.all():
        pairs = [divmod(key, stride) for key in keys[~known].unique().tolist()]
        raise ValueError(f'`pred_segments` does not list (category, instance) {pairs} of `pred_panoptic`')
    index = torch.full(panoptic.shape, -1, dtype=torch.int64)
    index[labelled] = order[place]
    return ScoredSegments(index, category, score)


def predicted_proposals(sample: Mapping[str, Any]) -> MaskProposals:
    """`pred_proposals`, or else the scored segments, on the CPU; errors as `scored_segments`."""
    if sample.get('pred_proposals') is None:
        return scored_segments(sample).as_proposals()
    return required(sample, 'pred_proposals', MaskProposals).to('cpu')


def proposals_by_view(sample: Mapping[str, Any]) -> Iterator[MaskProposals]:
    """`predicted_proposals` of one view after the other, so that the masks of a single view are in memory."""
    if sample.get('pred_proposals') is None:
        segments = scored_segments(sample)
        for index in segments.index:
            yield ScoredSegments(index, segments.category, segments.score).as_proposals()
    else:
        proposals = predicted_proposals(sample)
        for masks in proposals.masks.unbind(1):
            yield MaskProposals(masks, proposals.category, proposals.score)
