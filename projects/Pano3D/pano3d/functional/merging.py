"""From a set of scored masks to labels per pixel: the read-outs of the set head (method, section 5).

A policy says which query owns each pixel of a scene; labels and segments follow from that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

NOBODY = -1


@dataclass(frozen=True)
class SceneMasks:
    """The masks of K queries, brought to the size of the images some views at a time.

    Going through it gives mask probabilities (K, v, H, W), float32, for v views after the other, each new. They are 0
    beside a view that is smaller than its canvas.

    Args:
        logits: (K, V, h, w), of any floating type.
        size: (H, W), the canvas of the images; resized bilinearly, every view cut to its own size before.
        views_per_chunk: how many views at a time.
        extents: (V, 2), rows and columns of each view's own part of the masks; r of them are r H / h pixels. None where
            all is its own.
    """

    logits: Tensor
    size: tuple[int, int]
    views_per_chunk: int
    extents: Tensor | None = None

    def of(self, queries: Tensor) -> SceneMasks:
        """The masks of some of the queries."""
        return replace(self, logits=self.logits[queries])

    def own_sizes(self) -> list[tuple[int, int]]:
        """Height and width of each view, pixels."""
        if self.extents is None:
            return [self.size] * self.logits.shape[1]
        height, width = self.logits.shape[-2:]
        return [(r * self.size[0] // height, c * self.size[1] // width) for r, c in self.extents.tolist()]

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, self.logits.shape[1], self.views_per_chunk):
            yield self._resized(range(start, min(start + self.views_per_chunk, self.logits.shape[1]))).sigmoid()

    def _resized(self, views: range) -> Tensor:
        logits = self.logits[:, views.start : views.stop].float()
        if self.extents is None:
            return _resize(logits, self.size)
        canvas = logits.new_full((len(logits), len(views), *self.size), -torch.inf)
        own_sizes = self.own_sizes()
        for place, view in enumerate(views):
            (rows, columns), (height, width) = self.extents[view].tolist(), own_sizes[view]
            own = logits[:, place : place + 1, :rows, :columns]
            canvas[:, place, :height, :width] = _resize(own, (height, width))[:, 0]
        return canvas


def semantic_probabilities(class_logits: Tensor, mask_probabilities: Tensor) -> Tensor:
    """Marginalise the queries: sum over queries of class probability x mask probability.

    Args:
        class_logits: (K, C + 1), 'no object' last.
        mask_probabilities: (K, ...), any pixel dimensions.

    Returns:
        (C, ...): larger is likelier; not normalised over the classes.
    """
    return torch.tensordot(class_logits.softmax(-1)[:, :-1], mask_probabilities, dims=([0], [0]))


def query_labels(class_logits: Tensor) -> tuple[Tensor, Tensor]:
    """The best class of each query that is not 'no object', the last one, and its probability: (K,) each."""
    score, label = class_logits.softmax(-1)[:, :-1].max(-1)
    return label, score


def winner_takes_all(class_logits: Tensor, masks: SceneMasks) -> Tensor:
    """Every pixel goes to the query with the largest class score x mask probability; nothing stays void.

    Args:
        class_logits: (K, C + 1), 'no object' last.
        masks: of the K queries.

    Returns:
        The query that owns each pixel, (V, H, W), int32.
    """
    score = query_labels(class_logits)[1].view(-1, 1, 1, 1)
    return torch.cat([(score * probability).argmax(0).int() for probability in masks])


def merge_by_overlap(
    class_logits: Tensor,
    masks: SceneMasks,
    is_stuff: Tensor,
    *,
    score_threshold: float,
    overlap_threshold: float,
    mask_threshold: float = 0.5,
    iterations: int = 1,
) -> Tensor:
    """Mask2Former's panoptic inference, over all views of a scene at once.

    Queries whose best class is 'no object' or scores less than `score_threshold` are dropped. Each pixel goes to the
    best query by class score x mask probability, if that query's mask is on there. A query that owns less than
    `overlap_threshold` of its mask is dropped with its pixels. The queries of one stuff class are one segment and
    judged by their union.

    Args:
        class_logits: (K, C + 1), 'no object' last.
        masks: of the K queries.
        is_stuff: (C,) bool.
        score_threshold: least class score of a query.
        overlap_threshold: least share of its mask that a query must own.
        mask_threshold: a mask is on where its probability is at least this.
        iterations: rounds. With one, pixels of dropped queries stay void, as in Mask2Former; in each further round the
            queries that are left, also those that owned nothing, share all pixels anew.

    Returns:
        The query that owns each pixel, (V, H, W), int32, -1 where none does.
    """
    score, label = class_logits.softmax(-1).max(-1)
    queries = ((label < class_logits.shape[-1] - 1) & (score >= score_threshold)).nonzero()[:, 0]
    nobody = torch.full((masks.logits.shape[1], *masks.size), NOBODY, dtype=torch.int32, device=label.device)
    owner = nobody
    for _ in range(iterations):
        if not len(queries):
            return nobody
        stuff = is_stuff.to(label.device)[label[queries]]
        group = torch.where(stuff, len(label) + label[queries], queries).unique(return_inverse=True)[1]
        place, area, kept = _claims(score[queries], masks.of(queries), group, mask_threshold)
        dropped = ((kept > 0) & (kept < overlap_threshold * area.double()))[group]
        owner = _lookup(torch.where(dropped, NOBODY, queries), place).int()
        if not dropped.any():
            break
        queries = queries[~dropped]
    return owner


def _claims(score: Tensor, masks: SceneMasks, group: Tensor, mask_threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Who of k queries owns each pixel, (V, H, W), -1 for none; pixels where a group is on, and those it owns (G,)."""
    groups = int(group.max()) + 1
    area, kept = torch.zeros(2, groups, dtype=torch.long, device=score.device)
    owners = []
    for probability in masks:
        owner = (score.view(-1, 1, 1, 1) * probability).argmax(0)
        held = probability.gather(0, owner[None])[0] >= mask_threshold
        members = probability.new_zeros((groups, owner.numel()), dtype=torch.int16)
        members.index_add_(0, group, (probability >= mask_threshold).flatten(1).short())
        area += (members > 0).sum(1, dtype=torch.int32)
        kept += torch.bincount(group[owner[held]], minlength=groups)
        owners.append(torch.where(held, owner, NOBODY).int())
    return torch.cat(owners), area, kept


def owned_labels(owner: Tensor, class_logits: Tensor, is_stuff: Tensor) -> tuple[Tensor, Tensor]:
    """Category, -1 for none, and instance of every pixel, both of the shape of `owner`, int64.

    The instance is the number of the query + 1 for things and 0 for stuff, so that all queries of a stuff class are one
    segment, over all views.
    """
    label, instance = _query_segments(class_logits, is_stuff)
    return _lookup(label, owner), _lookup(instance, owner, nobody=0)


def owned_segments(owner: Tensor, class_logits: Tensor, is_stuff: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Category, instance and score of the S segments that own a pixel, (S,) each, by category and instance.

    The score is the class probability of the query; of a stuff segment, that of the best query that owns a pixel.
    """
    label, instance = _query_segments(class_logits, is_stuff)
    present = torch.bincount((owner.flatten() + 1).long(), minlength=len(label) + 1)[1:].to(label.device) > 0
    pairs, which = torch.stack([label, instance])[:, present].unique(dim=1, return_inverse=True)
    score = query_labels(class_logits)[1][present]
    best = score.new_zeros(pairs.shape[1]).scatter_reduce_(0, which, score, 'amax')
    return pairs[0], pairs[1], best


def _query_segments(class_logits: Tensor, is_stuff: Tensor) -> tuple[Tensor, Tensor]:
    label, _ = query_labels(class_logits)
    stuff = is_stuff.to(label.device)[label]
    return label, torch.where(stuff, 0, torch.arange(1, len(label) + 1, device=label.device))


def _lookup(table: Tensor, owner: Tensor, nobody: int = NOBODY) -> Tensor:
    """`table[owner]`, and `nobody` where there is no owner."""
    return torch.cat([table, table.new_tensor([nobody])]).to(owner.device)[owner]


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size, mode='bilinear', align_corners=False)
