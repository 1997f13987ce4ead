"""What a segmentation head sees of the views of a scene."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class ViewFeatures:
    """Features per patch of B scenes with V views each; the head knows no backbone, only this.

    Views of several sizes lie in the top left corners of one canvas. What is outside a view is never attended to, and
    no loss sees it.

    Args:
        sources: features (B, V, h * w, C_s) by name, row by row: 'encoder' is E, 'decoder' is F, others are extra.
        grid: (h, w), rows and columns of the canvas.
        extents: (B, V, 2), rows and columns of each view, int64; None where all fill the canvas.
        points: (B, V, h * w, 3), the predicted position of each patch in the frame of the first camera; None where
            nothing is predicted, and only heads that work in 3D ask for it.

    Raises:
        ValueError: if the shapes do not fit each other, or an extent does not fit the canvas.
    """

    sources: Mapping[str, Tensor]
    grid: tuple[int, int]
    extents: Tensor | None = None
    points: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError('`sources` is empty: at least one feature per patch is needed')
        batch, views, _, _ = next(iter(self.sources.values())).shape
        tokens = self.grid[0] * self.grid[1]
        for name, value in self.sources.items():
            if value.shape[:-1] != (batch, views, tokens):
                raise ValueError(
                    f'features {name!r} must have shape ({batch}, {views}, {tokens}, C) on the grid {self.grid}, '
                    f'got {tuple(value.shape)}'
                )
        if self.points is not None and self.points.shape != (batch, views, tokens, 3):
            raise ValueError(f'`points` must be ({batch}, {views}, {tokens}, 3), got {tuple(self.points.shape)}')
        if self.extents is not None:
            _check_extents(self.extents, (batch, views, 2), self.grid)

    @property
    def num_views(self) -> int:
        """V."""
        return next(iter(self.sources.values())).shape[1]

    @property
    def device(self) -> torch.device:
        """Where the features are."""
        return next(iter(self.sources.values())).device

    def float(self) -> ViewFeatures:
        """The same in single precision."""
        return replace(self, sources={name: value.float() for name, value in self.sources.items()})

    def split(self, size: int) -> Iterator[ViewFeatures]:
        """Some views at a time, in order."""
        for start in range(0, self.num_views, size):
            chosen = slice(start, start + size)
            yield ViewFeatures(
                {name: value[:, chosen] for name, value in self.sources.items()},
                self.grid,
                None if self.extents is None else self.extents[:, chosen],
                None if self.points is None else self.points[:, chosen],
            )

    @staticmethod
    def join(
        parts: Sequence[tuple[Sequence[int], ViewFeatures]], canvas: tuple[int, int] | None = None
    ) -> ViewFeatures:
        """All views of the scenes from parts of them.

        Args:
            parts: which views of the scenes, 0 to V - 1, each in one part, and their features.
            canvas: rows and columns of the result; None: as large as the largest part.

        Raises:
            ValueError: if the parts are not V views.
        """
        views = [view for chosen, _ in parts for view in chosen]
        if sorted(views) != list(range(len(views))):
            raise ValueError(f'the parts must have each of V views once, got the views {views}')
        grid = canvas or (max(part.grid[0] for _, part in parts), max(part.grid[1] for _, part in parts))
        mixed = any(part.extents is not None or part.grid != grid for _, part in parts)

        def joined(values: list[Tensor]) -> Tensor:
            cells = [
                (chosen, value.unflatten(2, part.grid)) for (chosen, part), value in zip(parts, values, strict=True)
            ]
            return on_canvas(cells, grid).flatten(2, 3)

        def extents(part: ViewFeatures) -> Tensor:
            value = next(iter(part.sources.values()))
            return value.new_tensor(part.grid, dtype=torch.int64).expand(*value.shape[:2], 2)

        ordered = torch.argsort(torch.tensor(views))
        known = [part.extents if part.extents is not None else extents(part) for _, part in parts]
        return ViewFeatures(
            {name: joined([part.sources[name] for _, part in parts]) for name in parts[0][1].sources},
            grid,
            torch.cat(known, dim=1)[:, ordered] if mixed else None,
            None if parts[0][1].points is None else joined([part.points for _, part in parts]),
        )


def on_canvas(parts: Sequence[tuple[Sequence[int], Tensor]], canvas: tuple[int, int]) -> Tensor:
    """Maps of views of several sizes, each in the top left corner of one canvas (H, W), zero (or False) around them.

    Args:
        parts: which views of the scenes, and their maps (B, n, h, w, ...); V views in all.
        canvas: at least as large as every map.

    Returns:
        (B, V, H, W, ...).
    """
    views = [view for chosen, _ in parts for view in chosen]
    first = parts[0][1]
    if len(parts) == 1 and views == list(range(len(views))) and first.shape[2:4] == canvas:
        return first
    result = first.new_zeros(len(first), len(views), *canvas, *first.shape[4:])
    for chosen, values in parts:
        result[:, list(chosen), : values.shape[2], : values.shape[3]] = values
    return result


def outside(extents: Tensor, canvas: tuple[int, int]) -> Tensor:
    """Which cells of a canvas (h, w) are none of the view's, for extents (..., 2): (..., h, w), bool."""
    rows = torch.arange(canvas[0], device=extents.device)[:, None] >= extents[..., 0, None, None]
    columns = torch.arange(canvas[1], device=extents.device) >= extents[..., 1, None, None]
    return rows | columns


def _check_extents(extents: Tensor, shape: tuple[int, ...], grid: tuple[int, int]) -> None:
    if extents.shape != shape or extents.dtype != torch.int64:
        raise ValueError(f'`extents` must be {shape} int64, got {tuple(extents.shape)} {extents.dtype}')
    low, high = extents.flatten(0, 1).amin(0).tolist(), extents.flatten(0, 1).amax(0).tolist()
    if min(low) < 1 or high[0] > grid[0] or high[1] > grid[1]:
        raise ValueError(f'`extents` must lie between (1, 1) and the canvas {grid}, got {low} to {high}')
