"""Views of several sizes in one scene: a canvas that holds them all, and stacks of one size each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from pano3d.structures import SceneSample

Size = tuple[int, int]
"""(H, W), pixels."""


@dataclass(frozen=True)
class SizedViews:
    """The views of B scenes that have one size.

    Args:
        views: their places in the scenes.
        images: (B, n, 3, H, W).
    """

    views: tuple[int, ...]
    images: Tensor


def images_on_canvas(images: Sequence[Tensor]) -> tuple[Tensor, list[Size]]:
    """Images (3, H_i, W_i) in the top left corners of one canvas, black around them, and their sizes.

    The canvas (V, 3, H, W) is what a model takes, and the sizes are the meta information `view_sizes` of the sample.
    """
    sizes = [(image.shape[-2], image.shape[-1]) for image in images]
    canvas = images[0].new_zeros(len(images), 3, max(h for h, _ in sizes), max(w for _, w in sizes))
    for place, image in zip(canvas, images, strict=True):
        place[:, : image.shape[-2], : image.shape[-1]] = image
    return canvas, sizes


def view_sizes_of(samples: Sequence[SceneSample] | None, inputs: Tensor) -> list[Size]:
    """(H, W) of each view of the scenes on the canvas `inputs` (B, V, 3, H, W); all of it where no sample says more.

    Raises:
        ValueError: if the sizes do not fit the canvas, or scenes of one batch differ in them.
    """
    views, canvas = inputs.shape[1], (inputs.shape[-2], inputs.shape[-1])
    found = [[tuple(size) for size in sample.get('view_sizes', [canvas] * views)] for sample in samples or ()]
    for sizes in found:
        fits = all(0 < height <= canvas[0] and 0 < width <= canvas[1] for height, width in sizes)
        if len(sizes) != views or not fits:
            raise ValueError(f'`view_sizes` must be {views} sizes (H, W) of at most {canvas}, got {sizes}')
        if sizes != found[0]:
            raise ValueError(
                f'scenes of one batch must have views of the same sizes, got {found[0]} and {sizes}; use `batch_size=1`'
            )
    return found[0] if found else [canvas] * views


def stack_by_size(inputs: Tensor, sizes: Sequence[Size]) -> list[SizedViews]:
    """The views of a canvas (B, V, 3, H, W), size by size in order of appearance; the first has the first view."""
    stacks = []
    for height, width in dict.fromkeys(sizes):
        views = tuple(view for view, size in enumerate(sizes) if size == (height, width))
        images = inputs if len(views) == len(sizes) else inputs[:, list(views)]
        stacks.append(SizedViews(views, images[..., :height, :width]))
    return stacks


def one_size_only(network: str, sizes: Sequence[Size], inputs: Tensor) -> None:
    """For networks in which all views attend to each other on one grid.

    Raises:
        ValueError: if the views do not fill their canvas.
    """
    canvas = inputs.shape[-2], inputs.shape[-1]
    if set(sizes) != {canvas}:
        raise ValueError(
            f'{network} takes views of one size only, got {sorted(set(sizes))} on a canvas of {canvas}; resize or crop '
            'them to one size (the ResizeCrop transform does), or take an online network with `OnlinePano3D`'
        )
