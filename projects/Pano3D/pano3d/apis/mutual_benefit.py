"""Does joint training help both tasks? The same budget and seeds for each regime, and paired differences."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mmengine.config import Config
from scipy import stats

from pano3d.visualization.benefit import draw_benefit
from pano3d.visualization.curves import read_scalars

JOINT = 'joint'
REGIMES = ('frozen_geometry', 'geometry_only', 'segmentation_only', JOINT)
UNTRAINED = {'geometry_only': 'segmentation'}
"""Tasks for which a regime has nothing that was ever trained."""

LARGER_IS_BETTER = {'PQ': True, 'mIoU': True, 'tau': True, 'AbsRel': False}
TASK = {'PQ': 'segmentation', 'mIoU': 'segmentation', 'tau': 'geometry', 'AbsRel': 'geometry'}
LEVEL = 0.05

Results = Mapping[str, Mapping[int, Mapping[str, float]]]
"""Regime -> seed -> metric by its key."""


@dataclass(frozen=True)
class Difference:
    """Joint training against another regime in one metric, paired over the seeds.

    Args:
        metric: its key.
        other: the regime it is compared with.
        mean: of joint minus other.
        interval: half the width of the 95 % confidence interval of the mean (Student's t); nan with one seed.
        p: of the paired t-test, two-sided; nan with one seed.
        helps: True where joint training is better at the 5 % level, False where it is worse, None if undecided.
    """

    metric: str
    other: str
    mean: float
    interval: float
    p: float
    helps: bool | None


def regime_config(config: Config, regime: Mapping, *, seed: int, start: str | Path | None) -> Config:
    """`config` under a training regime.

    Args:
        config: any recipe.
        regime: what the regime changes in `model`, see `configs/_base_/regimes/`.
        seed: of the run.
        start: checkpoint to begin with, or None: what the recipe says.
    """
    changed = copy.deepcopy(config)
    changed.merge_from_dict({'model': dict(regime), 'randomness': {'seed': seed}})
    if start is not None:
        changed.load_from = str(start)
    return changed


def paired_differences(results: Results) -> list[Difference]:
    """Joint training against the other regimes, for every metric that both have, over the seeds that both have."""
    found = []
    for metric in metrics_of(results):
        for regime in results:
            if regime == JOINT or TASK[last_part(metric)] == UNTRAINED.get(regime):
                continue
            seeds = [seed for seed in results[JOINT] if metric in results[regime].get(seed, {})]
            pairs = [(results[JOINT][seed].get(metric, math.nan), results[regime][seed][metric]) for seed in seeds]
            differences = np.array([one - other for one, other in pairs if math.isfinite(one - other)])
            if len(differences):
                found.append(_test(metric, regime, differences))
    return found


def _test(metric: str, other: str, differences: np.ndarray) -> Difference:
    count, mean = len(differences), float(differences.mean())
    if count < 2:
        return Difference(metric, other, mean, math.nan, math.nan, None)
    error = float(differences.std(ddof=1)) / math.sqrt(count)
    interval = float(stats.t.ppf(1 - LEVEL / 2, count - 1)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, count - 1)) if error > 0 else float(mean == 0)
    better = (mean > 0) == LARGER_IS_BETTER[last_part(metric)]
    return Difference(metric, other, mean, interval, p, better if p < LEVEL else None)


def metrics_of(results: Results) -> list[str]:
    """The keys of all runs that are compared, in their order."""
    keys = dict.fromkeys(key for seeds in results.values() for values in seeds.values() for key in values)
    return [key for key in keys if last_part(key) in LARGER_IS_BETTER]


def last_part(metric: str) -> str:
    return metric.rpartition('/')[2]


def gradient_curves(folders: Sequence[Path]) -> list[dict[str, list[tuple[int, float]]]]:
    """What `TaskGradientHook` logged, one dict of curves per run."""
    found = []
    for folder in folders:
        files = sorted(folder.glob('*/vis_data/scalars.json'))
        curves = read_scalars(files) if files else {}
        found.append({name: curve for name, curve in curves.items() if name.startswith('gradient_')})
    return found


def write_benefit_report(
    out: str | Path,
    results: Results,
    gradients: Sequence[Mapping[str, Sequence[tuple[int, float]]]],
    settings: Mapping[str, object],
    failed: Mapping[tuple[str, int], str],
) -> list[Path]:
    """Write `report.md`, `report.json` and `report.png`; return their paths.

    Args:
        out: folder.
        results: metrics of the finished runs.
        gradients: curves of the joint runs.
        settings: what the reader must know, by name.
        failed: what went wrong.

    Raises:
        ValueError: if no joint run is finished.
    """
    if not results.get(JOINT):
        raise ValueError(f'no run of the regime {JOINT!r} is finished, so there is nothing to compare')
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    differences = paired_differences(results)
    picture, table, record = out / 'report.png', out / 'report.md', out / 'report.json'
    shown = {key: {regime: _values(results, regime, key) for regime in results} for key in metrics_of(results)}
    draw_benefit(shown, gradients).savefig(picture)
    parts = [
        '# Does joint training help?',
        ' '.join(f'{name}: {value}.' for name, value in settings.items()),
        *[f'**The run {name}, seed {seed}, failed**: {problem}.' for (name, seed), problem in failed.items()],
        '## Scores\n\nMean over the seeds, and their standard deviation.',
        _score_table(shown),
        '## Joint training against the others\n\nDifferences are paired over the seeds; in brackets half the 95 % '
        'confidence interval of the mean and p of the paired t-test. A verdict needs p < 0.05 and is not corrected '
        'for the number of comparisons.',
        _difference_table(differences),
        _verdict(differences),
        '## Gradients of joint training\n\nNorm of the gradient of each weighted loss and cosine between them, '
        'mean over the seeds, at the first and the last measurements.',
        _gradient_table(gradients),
        f'![Scores and gradients]({picture.name})',
    ]
    table.write_text('\n\n'.join(part for part in parts if part) + '\n', encoding='utf-8')
    record.write_text(
        json.dumps(
            {
                'settings': {name: str(value) for name, value in settings.items()},
                'results': {
                    regime: {str(seed): dict(v) for seed, v in runs.items()} for regime, runs in results.items()
                },
                'differences': [_finite(vars(difference)) for difference in differences],
                'failed': {f'{name}/seed_{seed}': problem for (name, seed), problem in failed.items()},
            },
            indent=1,
        ),
        encoding='utf-8',
    )
    return [table, record, picture]


def _values(results: Results, regime: str, metric: str) -> list[float]:
    if TASK[last_part(metric)] == UNTRAINED.get(regime):
        return []
    return [values[metric] for values in results[regime].values() if metric in values]


def _score_table(shown: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    regimes = list(next(iter(shown.values())))
    rows = [
        [f'`{metric}` {"↑" if LARGER_IS_BETTER[last_part(metric)] else "↓"}', *map(_spread, values.values())]
        for metric, values in shown.items()
    ]
    return markdown_table(['', *(regime.replace('_', ' ') for regime in regimes)], rows)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return '-'
    return f'{np.mean(values):.3f}' + (f' ± {np.std(values, ddof=1):.3f}' if len(values) > 1 else '')


def _difference_table(differences: Sequence[Difference]) -> str:
    words = {True: '**better**', False: '**worse**', None: 'undecided'}
    rows = [
        [
            f'`{d.metric}`',
            d.other.replace('_', ' '),
            f'{d.mean:+.3f} (± {d.interval:.3f}, p = {d.p:.2g})' if math.isfinite(d.p) else f'{d.mean:+.3f}',
            words[d.helps],
        ]
        for d in differences
    ]
    return markdown_table(['', 'against', 'difference', 'joint is'], rows)


def _verdict(differences: Sequence[Difference]) -> str:
    """One sentence per task: against the regime that trains this task alone."""
    lines = []
    for task, alone in (('geometry', 'geometry_only'), ('segmentation', 'segmentation_only')):
        told = [d for d in differences if d.other == alone and TASK[last_part(d.metric)] == task]
        if not told:
            continue
        better, worse = ([f'`{d.metric}`' for d in told if d.helps is wanted] for wanted in (True, False))
        words = [f'better in {", ".join(better)}'] * bool(better) + [f'worse in {", ".join(worse)}'] * bool(worse)
        lines.append(f'{task} ({alone.replace("_", " ")} as the measure): {"; ".join(words) or "undecided"}')
    return f'**With these seeds, joint training is, for {"; for ".join(lines)}.**' if lines else ''


def _gradient_table(gradients: Sequence[Mapping[str, Sequence[tuple[int, float]]]]) -> str:
    names = dict.fromkeys(name for run in gradients for name in run if name != 'gradient_overhead')
    rows = []
    for name in names:
        ends = [[curve[0][1], curve[-1][1]] for run in gradients if (curve := run.get(name))]
        first, last = np.mean(ends, axis=0)
        rows.append([f'`{name}`', f'{first:.3g}', f'{last:.3g}'])
    return markdown_table(['', 'first', 'last'], rows) if rows else 'No run has logged any.'


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in (header, ['---'] * len(header), *rows))


def _finite(values: Mapping) -> dict:
    """The same with null for what JSON has no number for."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()
    }
