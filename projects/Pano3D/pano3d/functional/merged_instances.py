"""How many objects a prediction has merged with another: one predicted segment over two neighbouring chairs.

Labels are as for panoptic quality: a category (index into the label space, -1 = void) and an instance id per element of
an image, where all views of a scene may be one image. Only things are looked at; whether classes agree is not asked.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .segments import segments_of


@dataclass(frozen=True)
class MergedCounts:
    """Counts of ground truth instances of things. Those of several images add up with `+`.

    Args:
        instances: all.
        covered: those of which a predicted segment of a thing covers the major part.
        merged: those that share such a segment with another instance.
    """

    instances: int
    covered: int
    merged: int

    def __add__(self, other: MergedCounts) -> MergedCounts:
        return MergedCounts(self.instances + other.instances, self.covered + other.covered, self.merged + other.merged)


def merged_counts(
    *,
    predicted_category: Tensor,
    predicted_instance: Tensor,
    gt_category: Tensor,
    gt_instance: Tensor,
    is_stuff: Tensor,
    major_part: float = 0.5,
) -> MergedCounts:
    """Count the merged instances of one image.

    Args:
        predicted_category, predicted_instance, gt_category, gt_instance: (...), integer, on one device.
        is_stuff: (C,) bool.
        major_part: a segment covers an instance if it has more than this share of its elements; from one half on, at
            most one segment does.

    Raises:
        ValueError: if the shapes differ or `major_part` is not in [0, 1).
    """
    if not predicted_category.shape == predicted_instance.shape == gt_category.shape == gt_instance.shape:
        shapes = [tuple(t.shape) for t in (predicted_category, predicted_instance, gt_category, gt_instance)]
        raise ValueError(f'the four label maps must have one shape, got {shapes}')
    check_major_part(major_part)
    is_stuff = is_stuff.to(gt_category.device)
    label, segment = _segments(predicted_category, predicted_instance)
    gt_label, gt_segment = _segments(gt_category, gt_instance)
    area = torch.bincount(gt_segment[gt_segment >= 0], minlength=len(gt_label))
    both = (segment >= 0) & (gt_segment >= 0)
    pair = gt_segment[both] * len(label) + segment[both]
    common = torch.bincount(pair, minlength=len(gt_label) * len(label)).view(len(gt_label), len(label))
    instances, segments = ~is_stuff[gt_label], ~is_stuff[label]
    covers = (common > major_part * area[:, None])[instances][:, segments]
    merging = covers.sum(0) > 1
    return MergedCounts(len(covers), int(covers.any(1).sum()), int(covers[:, merging].any(1).sum()))


def _segments(category: Tensor, instance: Tensor) -> tuple[Tensor, Tensor]:
    """Class of every segment of one image, and the segment of every element in one row."""
    segments = segments_of(category.reshape(1, 1, 1, -1), instance.reshape(1, 1, 1, -1))
    return segments.category, segments.index.flatten()


def check_major_part(major_part: float) -> None:
    """Raises ValueError if `major_part` is not in [0, 1)."""
    if not 0 <= major_part < 1:
        raise ValueError(f'`major_part` must be at least 0 and less than 1, got {major_part}')
