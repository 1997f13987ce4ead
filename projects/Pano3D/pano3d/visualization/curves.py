"""Training curves from the scalars that mmengine's LocalVisBackend writes, one JSON record per line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

Curve = list[tuple[int, float]]
"""(step, value), by rising step."""

TASK_TERM = re.compile(r'loss_([^_]+)_(.+)')
BOOKKEEPING = {'step', 'iter', 'epoch'}
MAX_CURVES_PER_PANEL = 10
PANEL_INCHES = (5.0, 3.4)
PANELS_PER_ROW = 3


def save_training_curves(work_dir: str | Path, path: str | Path) -> Path:
    """Draw all runs below a work directory, `<work_dir>/*/vis_data/scalars.json`, as one picture; return `path`.

    Panels: total loss; the terms of each task; one panel per group of validation metrics.

    Raises:
        ValueError: if there are no scalars, or they hold nothing to draw.
    """
    files = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    if not files:
        raise ValueError(f'{work_dir}: no */vis_data/scalars.json there; expected the work directory of a training run')
    panels = group_curves(read_scalars(files))
    if not panels:
        raise ValueError(f'{work_dir}: {len(files)} scalar files but no loss and no metric in them')
    draw_curves(panels).savefig(path)
    return Path(path)


def read_scalars(files: Sequence[str | Path]) -> dict[str, Curve]:
    """Merge the scalar files of one training, oldest first, by step.

    A run resumed from a checkpoint repeats the steps after it: from its first training record on, a later file
    replaces all earlier ones. Files without a training record (evaluation only) are left out. Steps are iterations,
    as in training by iterations.

    Raises:
        ValueError: if a file holds something other than JSON records (an unfinished last line is ignored).
    """
    merged: list[dict] = []
    for file in files:
        records = _read_records(Path(file))
        first = min((record['step'] for record in records if 'loss' in record), default=None)
        if first is not None:
            merged = [record for record in merged if record['step'] < first] + records
    curves: dict[str, Curve] = {}
    for record in sorted(merged, key=lambda record: record['step']):
        for name, value in record.items():
            if name not in BOOKKEEPING and isinstance(value, (int, float)):
                curves.setdefault(name, []).append((record['step'], float(value)))
    return curves


def group_curves(curves: Mapping[str, Curve]) -> dict[str, dict[str, Curve]]:
    """Panels by title, each with its curves by label: total loss, terms per task, metrics by all but the last part."""
    panels: dict[str, dict[str, Curve]] = {}
    if 'loss' in curves:
        panels['total loss'] = {'loss': curves['loss']}
    for name in curves:
        if term := TASK_TERM.fullmatch(name):
            panels.setdefault(f'{term[1]} loss, weighted', {})[term[2]] = curves[name]
    for name in curves:
        group, slash, label = name.rpartition('/')
        if slash:
            panels.setdefault(group, {})[label] = curves[name]
    return panels


def draw_curves(panels: Mapping[str, Mapping[str, Curve]]) -> Figure:
    """One set of axes per panel; a noisy curve is drawn faintly below its moving average."""
    columns = min(PANELS_PER_ROW, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(PANEL_INCHES[0] * columns, PANEL_INCHES[1] * rows), dpi=110, layout='constrained')
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (title, curves) in zip(grid, panels.items(), strict=False):
        _draw_panel(axes, title, curves)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    return figure


def _draw_panel(axes: Axes, title: str, curves: Mapping[str, Curve]) -> None:
    shown = dict(list(curves.items())[:MAX_CURVES_PER_PANEL])
    hidden = len(curves) - len(shown)
    for label, curve in shown.items():
        steps, values = np.array([step for step, _ in curve]), np.array([value for _, value in curve])
        window = len(values) // 20
        if window < 2:
            axes.plot(steps, values, label=label, marker='o', markersize=3)
            continue
        [line] = axes.plot(steps, _moving_average(values, window), label=label)
        axes.plot(steps, values, color=line.get_color(), alpha=0.25, linewidth=0.8, zorder=0)
    if 'loss' in title and all(value > 0 for curve in shown.values() for _, value in curve):
        axes.set_yscale('log')
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter('{x:g}')
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_title(title + (f' (+{hidden} not shown)' if hidden else ''), fontsize=10)
    axes.set_xlabel('iteration', fontsize=9)
    axes.grid(alpha=0.3)
    axes.tick_params(which='both', labelsize=8)
    axes.legend(fontsize=8)


def _moving_average(values: np.ndarray, window: int) -> np.ndarray:
    """Centred mean over about `window` neighbours, over fewer at both ends."""
    sums = np.convolve(values, np.ones(window), mode='same')
    return sums / np.convolve(np.ones_like(values), np.ones(window), mode='same')


def _read_records(file: Path) -> list[dict]:
    lines = [line for line in file.read_text(encoding='utf-8').splitlines() if line.strip()]
    records = []
    for number, line in enumerate(lines):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines) - 1:  # a run that was stopped while it wrote
                break
            raise ValueError(f'{file}: record {number + 1} is not JSON ({error})') from error
        if 'step' in record:
            records.append(record)
    return records
