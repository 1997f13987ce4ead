"""From a set of scored masks to labels per pixel: the read-outs of the set head (method, section 5)."""

from __future__ import annotations

import torch
from torch import Tensor


def semantic_probabilities(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """Marginalise the queries: sum over queries of class probability x mask probability.

    Args:
        class_logits: (K, C + 1), 'no object' last.
        mask_logits: (K, ...), any pixel dimensions.

    Returns:
        (C, ...): larger is likelier; not normalised over the classes.
    """
    return torch.tensordot(class_logits.softmax(-1)[:, :-1], mask_logits.sigmoid(), dims=([0], [0]))


def winner_takes_all(class_logits: Tensor, mask_logits: Tensor, is_stuff: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every pixel goes to the query with the largest class score x mask probability; nothing stays void.

    Args:
        class_logits: (K, C + 1), 'no object' last.
        mask_logits: (K, ...).
        is_stuff: (C,) bool.

    Returns:
        Category (...), instance (...) and score per query (K,); the instance id is the query number + 1 for things and
        0 for stuff, so that all queries of a stuff class make one segment.
    """
    score, label = class_logits.softmax(-1)[:, :-1].max(-1)
    owner = (_expand(score, mask_logits) * mask_logits.sigmoid()).argmax(0)
    return *_labels(owner, label, is_stuff), score


def merge_by_overlap(
    class_logits: Tensor,
    mask_logits: Tensor,
    is_stuff: Tensor,
    *,
    score_threshold: float,
    overlap_threshold: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Mask2Former's panoptic inference, over all views of a scene at once.

    Queries whose best class is 'no object' or scores less than `score_threshold` are dropped. Each pixel goes to the
    best query by class score x mask probability, if that query's mask is on there (probability >= 0.5). A query
    that keeps less than `overlap_threshold` of its mask is dropped with its pixels.

    Arguments, result and ids as in `winner_takes_all`, with category -1 where no query holds the pixel.
    """
    score, label = class_logits.softmax(-1).max(-1)
    keep = (label < class_logits.shape[-1] - 1) & (score >= score_threshold)
    category = torch.full(mask_logits.shape[1:], -1, dtype=torch.long, device=mask_logits.device)
    if not keep.any():
        return category, torch.zeros_like(category), score
    queries = keep.nonzero()[:, 0]
    probability = mask_logits[queries].sigmoid()
    owner = (_expand(score[queries], probability) * probability).argmax(0)
    # The queries of one stuff class are one segment, so they are judged by their union.
    stuff = is_stuff.to(label.device)[label[queries]]
    same = (label[queries][:, None] == label[queries]) & stuff | torch.eye(len(queries), dtype=torch.bool).to(
        label.device
    )
    on = (same.float() @ (probability >= 0.5).flatten(1).float() > 0).view_as(probability)
    held = on.gather(0, owner[None])[0]
    kept_area = same.float() @ torch.bincount(owner[held], minlength=len(queries)).float()
    good = (kept_area > 0) & (kept_area >= overlap_threshold * on.flatten(1).sum(1))
    held &= good[owner]
    found, instance = _labels(queries[owner], label, is_stuff)
    return torch.where(held, found, category), torch.where(held, instance, torch.zeros_like(instance)), score


def _labels(owner: Tensor, label: Tensor, is_stuff: Tensor) -> tuple[Tensor, Tensor]:
    category = label[owner]
    return category, torch.where(is_stuff.to(category.device)[category], 0, owner + 1)


def _expand(score: Tensor, masks: Tensor) -> Tensor:
    return score.view(-1, *[1] * (masks.ndim - 1))
