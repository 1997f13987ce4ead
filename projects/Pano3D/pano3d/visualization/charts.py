"""Charts of an evaluation: scores per class and the confusion of classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

INCHES_PER_CLASS = 0.22


def draw_class_bars(scores: Mapping[str, float], title: str) -> Figure:
    """A bar per class, best first; classes of an undefined score (nan) come last, marked so.

    Raises:
        ValueError: if there is no class.
    """
    if not scores:
        raise ValueError('expected a score for at least one class')
    ordered = sorted(scores.items(), key=lambda item: (math.isnan(item[1]), -item[1]))
    names = [name if not math.isnan(score) else f'{name} (undefined)' for name, score in ordered]
    values = [0.0 if math.isnan(score) else score for _, score in ordered]
    figure = Figure(figsize=(6.4, 0.9 + INCHES_PER_CLASS * len(names)), dpi=100, layout='constrained')
    axes = figure.subplots()
    bars = axes.barh(names, values)
    axes.bar_label(bars, labels=['' if math.isnan(score) else f'{score:.3f}' for _, score in ordered], padding=2)
    axes.set(title=title, xlim=(0, 1.15))
    axes.invert_yaxis()
    axes.margins(y=0.01)
    return figure


def draw_confusion(matrix: np.ndarray, names: Sequence[str]) -> Figure:
    """Shares of each true class (row) that are predicted as each class (column); rows without pixels are left out.

    Args:
        matrix: (C, C) counts.
        names: C names.

    Raises:
        ValueError: if the shapes do not fit.
    """
    if matrix.shape != (len(names), len(names)):
        raise ValueError(f'`matrix` must have shape {(len(names), len(names))} for the names, got {matrix.shape}')
    rows = np.flatnonzero(matrix.sum(1))
    columns = np.flatnonzero(matrix.sum(0) + matrix.sum(1))
    shares = matrix[rows] / np.maximum(matrix[rows].sum(1, keepdims=True), 1)
    size = 2.5 + INCHES_PER_CLASS * np.array([max(len(columns), 4), max(len(rows), 4)])
    figure = Figure(figsize=tuple(size), dpi=100, layout='constrained')
    axes = figure.subplots()
    image = axes.imshow(shares[:, columns], vmin=0, vmax=1, cmap='Blues', aspect='auto')
    axes.set_xticks(range(len(columns)), [names[i] for i in columns], rotation=90)
    axes.set_yticks(range(len(rows)), [names[i] for i in rows])
    axes.set(xlabel='predicted', ylabel='ground truth', title='confusion of pixels, shares of the true class')
    figure.colorbar(image, ax=axes)
    return figure
