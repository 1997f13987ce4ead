"""Average precision of scored masks: masks are matched with instances, scores follow from the ranked matches.

Masks may overlap. Labels are a category (index into the label space, -1 = void) and an instance id per element; a
ground truth instance is a pair (category, instance) of a thing class. Stuff and void count against nobody.

Two readings of the ranked matches: the ScanNet benchmark's (`average_precision`) and COCO's
(`interpolated_average_precision`). Masks of one score enter together, so that neither depends on the order of scenes.

Source: Dai et al., "ScanNet", CVPR 2017, and Lin et al., "Microsoft COCO", ECCV 2014, with their benchmarks' rules.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from .segments import segments_of

# 0.5 to 0.9 and 0.25. Not round decimals: the benchmark adds up steps, and an IoU of 0.6 does not pass its third one.
SCANNET_THRESHOLDS = (*np.arange(0.5, 0.95, 0.05).tolist(), 0.25)
RECALL_LEVELS = tuple(np.linspace(0.0, 1.0, 101).tolist())


@dataclass(frozen=True)
class InstanceMatches:
    """What matching leaves of P masks, C classes and T thresholds. Matches of several scenes add up with `+`.

    A mask that was excused at a threshold is neither positive there; one that meets several instances may be both.

    Args:
        category: (P,) int64, class of each mask.
        score: (P,) float64.
        true_positives: (P, T) uint8, instances for which the mask is the best match.
        false_positives: (P, T) uint8.
        missed: (C, T) int64, instances without a match.
        instances: (C,) int64, ground truth instances that count.
    """

    category: Tensor
    score: Tensor
    true_positives: Tensor
    false_positives: Tensor
    missed: Tensor
    instances: Tensor

    def __add__(self, other: InstanceMatches) -> InstanceMatches:
        return InstanceMatches(
            torch.cat([self.category, other.category]),
            torch.cat([self.score, other.score]),
            torch.cat([self.true_positives, other.true_positives]),
            torch.cat([self.false_positives, other.false_positives]),
            self.missed + other.missed,
            self.instances + other.instances,
        )

    def to(self, device: torch.device | str) -> InstanceMatches:
        return InstanceMatches(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def point_instance_matches(
    *,
    masks: Tensor,
    category: Tensor,
    score: Tensor,
    gt_category: Tensor,
    gt_instance: Tensor,
    is_stuff: Tensor,
    min_points: int = 100,
    thresholds: tuple[float, ...] = SCANNET_THRESHOLDS,
) -> InstanceMatches:
    """Match the masks of one scene by the rules of the ScanNet benchmark.

    Masks of no thing class or with fewer than `min_points` points are dropped. Per threshold and class the instances
    with at least `min_points` points, in the order of (category, instance), take the masks, in the given order, whose
    IoU is above the threshold, strictly, and which are no earlier instance's first match. Of these the one with the
    highest score is the true positive and the others are false positives. So below a threshold of 0.5 the order of the
    masks matters.

    A mask without any instance above the threshold is a false positive, unless the share of its points on void, stuff
    and smaller instances of its class is above the threshold, strictly.

    Args:
        masks: (K, N) bool.
        category: (K,) integer, -1 = none.
        score: (K,) floating, finite.
        gt_category: (N,) integer, -1 = void.
        gt_instance: (N,) integer, >= 0.
        is_stuff: (C,) bool.
        min_points: smallest mask and smallest instance that count.
        thresholds: T of them.

    Raises:
        ValueError: if shapes differ, a category is outside the label space, an instance id is negative, or a score is
            not finite.
    """
    if gt_category.ndim != 1:
        raise ValueError(f'`gt_category` must have shape (N,), got {tuple(gt_category.shape)}')
    check_proposals(masks, category, score, gt_category, gt_instance, is_stuff)
    is_thing = torch.cat([~is_stuff, is_stuff.new_zeros(1)])  # the last entry answers for void, -1
    things = torch.where(is_thing[gt_category], gt_category, -1)
    segments = segments_of(*(label.long()[None, None, None] for label in (things, gt_instance)))
    gt_class, index = segments.category, segments.index.flatten()
    overlap = _overlaps(masks, index + 1, len(gt_class) + 1)  # column 0: void and stuff
    size = overlap.sum(1)
    kept = is_thing[category] & (size >= min_points)
    category, score, size, overlap = category[kept].long(), score[kept].double(), size[kept], overlap[kept]
    gt_size = torch.bincount(index[index >= 0], minlength=len(gt_class))
    return _match(overlap, category, score, size, gt_class, gt_size, len(is_stuff), min_points, thresholds)


def average_precision(matches: InstanceMatches, *, all_excused: float = 0.0) -> Tensor:
    """ScanNet's AP of every class at every threshold, (C, T) float64; nan for a class without instances.

    Precision is weighted by half the difference of the recalls of its neighbours on the curve, which begins at recall 0
    with precision 1. That is not the area under the interpolated curve.

    Args:
        matches: sum over all scenes.
        all_excused: value where a class has instances and masks, and every mask is excused. The benchmark's own script
            stops with an error there, other implementations say 0.
    """
    values = matches.missed.new_full(matches.missed.shape, torch.nan, dtype=torch.float64)
    for c in matches.instances.nonzero()[:, 0].tolist():
        right, wrong = _curve(matches, c)
        precision = torch.where(right + wrong > 0, right / (right + wrong), 1.0)
        padded = torch.cat([right[:1], right, right[-1:]])
        # whole numbers until the last division, so that a perfect result is exactly 1
        total = right[-1] + matches.missed[c]
        values[c] = (precision * (padded[2:] - padded[:-2])).sum(0) / (2 * total)
        if (matches.category == c).any():
            values[c] = torch.where(right[-1] + wrong[-1] > 0, values[c], all_excused)
    return values


def interpolated_average_precision(matches: InstanceMatches) -> Tensor:
    """COCO's AP of every class at every threshold, (C, T) float64; nan for a class without instances.

    The mean, over the recalls 0, 0.01, ..., 1, of the highest precision at that recall or above.
    """
    levels = torch.tensor(RECALL_LEVELS, dtype=torch.float64, device=matches.score.device)
    values = matches.missed.new_full(matches.missed.shape, torch.nan, dtype=torch.float64)
    for c in matches.instances.nonzero()[:, 0].tolist():
        right, wrong = (counts[1:].T.contiguous() for counts in _curve(matches, c))  # (T, U)
        precision = torch.where(right + wrong > 0, right / (right + wrong), 0.0)
        envelope = precision.flip(1).cummax(1).values.flip(1) if precision.numel() else precision
        envelope = torch.cat([envelope, envelope.new_zeros(len(envelope), 1)], dim=1)
        recall = right / matches.instances[c]
        reached = torch.searchsorted(recall, levels.expand(len(recall), -1).contiguous())
        values[c] = envelope.gather(1, reached).mean(1)
    return values


def check_proposals(
    masks: Tensor, category: Tensor, score: Tensor, gt_category: Tensor, gt_instance: Tensor, is_stuff: Tensor
) -> None:
    """Raise a ValueError unless masks (K, ...) with category and score (K,) fit ground truth (...) of C classes."""
    if masks.dtype != torch.bool or masks.shape[1:] != gt_category.shape:
        raise ValueError(
            f'`masks` must be bool, of the size of `gt_category`, {tuple(gt_category.shape)}, '
            f'got {masks.dtype} {tuple(masks.shape)}'
        )
    for name, tensor, shape in (
        ('category', category, masks.shape[:1]),
        ('score', score, masks.shape[:1]),
        ('gt_instance', gt_instance, gt_category.shape),
    ):
        if tensor.shape != shape:
            raise ValueError(f'`{name}` must have shape {tuple(shape)}, got {tuple(tensor.shape)}')
    for name, tensor in (('category', category), ('gt_category', gt_category)):
        if tensor.numel() and not -1 <= tensor.min() <= tensor.max() < len(is_stuff):
            raise ValueError(
                f'`{name}` must lie in [-1, {len(is_stuff) - 1}] for {len(is_stuff)} classes, '
                f'got [{tensor.min()}, {tensor.max()}]'
            )
    if gt_instance.numel() and gt_instance.min() < 0:
        raise ValueError(f'`gt_instance` must not be negative, got {gt_instance.min()}')
    if not score.isfinite().all():
        wrong = int((~score.isfinite()).sum())
        raise ValueError(f'`score` must be finite; it is not for {wrong} of {len(score)} masks')


def _match(
    overlap: Tensor,
    category: Tensor,
    score: Tensor,
    size: Tensor,
    gt_class: Tensor,
    gt_size: Tensor,
    num_classes: int,
    min_points: int,
    thresholds: tuple[float, ...],
) -> InstanceMatches:
    """Matches from the points that masks (K) share with nothing and with every instance, `overlap` (K, 1 + G)."""
    on_nothing, overlap = overlap[:, 0], overlap[:, 1:].T
    same_class = gt_class[:, None] == category
    steps = torch.tensor(thresholds, dtype=torch.float64, device=score.device)
    iou = overlap.double() / (gt_size[:, None] + size - overlap)
    above = same_class[..., None] & (iou[..., None] > steps)  # (G, K, T)

    counted = gt_size >= min_points
    small = same_class & ~counted[:, None]
    excusable = on_nothing + (overlap * small).sum(0)
    excused = (excusable.double() / size)[:, None] > steps
    false_positives = (~above.any(0) & ~excused).to(torch.uint8)
    true_positives = torch.zeros_like(false_positives)
    used = torch.zeros_like(false_positives, dtype=torch.bool)
    instances = torch.bincount(gt_class[counted], minlength=num_classes)
    missed = instances[:, None].repeat(1, len(thresholds))
    for g in counted.nonzero()[:, 0].tolist() if len(score) else ():
        candidates = above[g] & ~used
        found = candidates.any(0)
        best = torch.where(candidates, score[:, None], -torch.inf).argmax(0)
        won = torch.zeros_like(candidates).scatter_(0, best[None], found[None])
        true_positives += won
        false_positives += candidates & ~won
        used |= candidates & (candidates.cumsum(0) == 1)
        missed[gt_class[g]] -= found.long()
    return InstanceMatches(category, score, true_positives, false_positives, missed, instances)


def _overlaps(masks: Tensor, index: Tensor, num_bins: int) -> Tensor:
    """Points of every mask in every bin, (K, num_bins) int64.

    In NumPy and mask by mask: masks hold few of the points, so that gathering them is far less work than a product.
    """
    bins = index.cpu().numpy()
    rows = [np.bincount(bins[np.flatnonzero(mask)], minlength=num_bins) for mask in masks.cpu().numpy()]
    counts = np.stack(rows) if rows else np.zeros((0, num_bins), np.int64)
    return torch.from_numpy(counts).to(index.device)


def _curve(matches: InstanceMatches, c: int) -> tuple[Tensor, Tensor]:
    """True and false positives of class c down to every distinct score, from the highest, (1 + U, T) float64.

    The first row is zero: no mask. Scores at which a threshold counts nothing repeat its row, which changes no area.
    """
    members = (matches.category == c).nonzero()[:, 0]
    order = members[matches.score[members].argsort(descending=True)]
    score = matches.score[order]
    last = torch.ones_like(score, dtype=torch.bool)
    last[:-1] = score[1:] != score[:-1]
    right, wrong = (
        torch.cat([counts.new_zeros(1, counts.shape[1]), counts[order]]).double().cumsum(0)
        for counts in (matches.true_positives, matches.false_positives)
    )
    rows = torch.cat([last.new_ones(1), last])
    return right[rows], wrong[rows]
