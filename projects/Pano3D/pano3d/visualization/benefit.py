"""One picture of a comparison of training regimes: scores per seed, and the gradients of the tasks over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Curves = Mapping[str, Sequence[tuple[int, float]]]
PANEL_INCHES = (3.6, 3.0)
PANELS_PER_ROW = 4


def draw_benefit(scores: Mapping[str, Mapping[str, Sequence[float]]], gradients: Sequence[Curves]) -> Figure:
    """A panel per metric, a panel of gradient norms and one of cosines per part of the model.

    Args:
        scores: metric -> regime -> value per seed; none where a regime has nothing to show.
        gradients: curves `gradient_norm/<part>/<task>` and `gradient_cosine/<tasks>/<part>`, one dict per seed; a line
            is the mean, its shade reaches from the lowest to the highest seed.

    Raises:
        ValueError: if there are no scores.
    """
    if not scores:
        raise ValueError('expected the scores of at least one metric')
    names = dict.fromkeys(name for run in gradients for name in run)
    panels: dict[str, list[str]] = {}
    for name in names:
        kind, *inner = name.split('/')
        if kind == 'gradient_norm':
            panels.setdefault(f'gradient norm, {inner[0].replace("_", " ")}', []).append(name)
        elif kind == 'gradient_cosine':
            panels.setdefault('cosine of the gradients', []).append(name)
    count = len(scores) + len(panels)
    columns = min(PANELS_PER_ROW, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(PANEL_INCHES[0] * columns, PANEL_INCHES[1] * rows), dpi=110, layout='constrained')
    grid = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axes, (metric, values) in zip(grid, scores.items(), strict=False):
        _draw_scores(axes, metric, values)
    for axes, (title, members) in zip(grid[len(scores) :], panels.items(), strict=False):
        _draw_gradients(axes, title, {name: [run[name] for run in gradients if name in run] for name in members})
    for axes in grid[count:]:
        axes.set_axis_off()
    return figure


def _draw_scores(axes: Axes, metric: str, values: Mapping[str, Sequence[float]]) -> None:
    for place, seeds in enumerate(values.values()):
        if len(seeds):
            axes.plot([place] * len(seeds), seeds, 'o', color=f'C{place}', markersize=4, alpha=0.6)
            axes.hlines(float(np.mean(seeds)), place - 0.3, place + 0.3, colors='black', linewidth=1.2)
    axes.set_xticks(range(len(values)), [regime.replace('_', '\n') for regime in values], fontsize=7)
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.set_title(metric, fontsize=7)
    axes.tick_params(axis='y', labelsize=7)
    axes.grid(axis='y', alpha=0.3)


def _draw_gradients(axes: Axes, title: str, members: Mapping[str, Sequence[Sequence[tuple[int, float]]]]) -> None:
    for name, runs in members.items():
        steps = [step for step, _ in min(runs, key=len)]
        values = np.array([[value for _, value in run[: len(steps)]] for run in runs])
        [line] = axes.plot(steps, values.mean(0), label=name.rpartition('/')[2].replace('_', ' '))
        axes.fill_between(steps, values.min(0), values.max(0), color=line.get_color(), alpha=0.2, linewidth=0)
    if 'norm' in title:
        axes.set_yscale('log')
    else:
        axes.axhline(0, color='black', linewidth=0.6)
    axes.set_title(title, fontsize=8)
    axes.set_xlabel('iteration', fontsize=7)
    axes.tick_params(which='both', labelsize=7)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
