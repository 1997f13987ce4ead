"""What an evaluation leaves on disk: metrics for programs, a report for people."""

from __future__ import annotations

import base64
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from matplotlib.figure import Figure

from pano3d.evaluation.metric_key import MetricKey
from pano3d.evaluation.scene_results import WHOLE_SCENE, EvaluationSummary
from pano3d.visualization.charts import draw_class_bars, draw_confusion

from .evaluation import Evaluation

FOLDER = Path(__file__).parent
PICTURES = 'report'
SCENES_SHOWN = 20


@dataclass(frozen=True)
class Picture:
    """A picture of a report, by its path from the report and as text."""

    title: str
    path: str
    base64: str


@dataclass(frozen=True)
class Section:
    """A part of a report: text, a table, pictures; `numbers` says that all columns but the first are numbers."""

    title: str
    paragraphs: list[str] = field(default_factory=list)
    header: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    numbers: bool = False


def write_report(evaluation: Evaluation, folder: str | Path) -> list[Path]:
    """Write `metrics.json`, `scenes.json`, `report.md` with pictures in `report/`, and `report.html`; return the paths.

    * `metrics.json`: values by key, null where undefined.
    * `scenes.json`: score of every scene, how many scenes are in each metric, what was left out or failed and why.
    * `report.html`: one file, its pictures inside.
    """
    folder = Path(folder)
    pictures = folder / PICTURES
    shutil.rmtree(pictures, ignore_errors=True)
    pictures.mkdir(parents=True)
    summary = evaluation.summary
    record = summary.as_json()
    metrics = record.pop('metrics')
    _write_json(folder / 'metrics.json', metrics)
    _write_json(folder / 'scenes.json', {**evaluation.source, **record})
    sections = [
        _overview(evaluation),
        Section(
            'Scores', ['Fractions, metres or degrees, see docs/protocols.md.'], *score_table(summary), numbers=True
        ),
        *_troubles(summary),
        *published_sections(summary.metrics),
        *_classes(evaluation, pictures),
        _scenes(evaluation, pictures),
    ]
    title = Path(evaluation.source.get('checkpoint') or evaluation.source['predictions']).name
    templates = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=lambda name: str(name).endswith('.html.j2'),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ('report.md', 'report.html'):
        text = templates.get_template(f'{name}.j2').render(title=title, sections=sections)
        (folder / name).write_text(text, encoding='utf-8')
    return [folder / name for name in ('metrics.json', 'scenes.json', 'report.md', 'report.html')]


def score_table(summary: EvaluationSummary) -> tuple[list[str], list[list[str]]]:
    """Header and rows: key, value, scenes that it is of; without the scores of single classes."""
    counted = {key: _of_prefix(key, summary.counted) for key in summary.metrics if not _is_class_score(key)}
    rows = [[key, _number(summary.metrics[key]), _of(scenes, summary)] for key, scenes in counted.items()]
    return ['key', 'value', 'scenes'], rows


def format_scores(summary: EvaluationSummary) -> str:
    """The table for the terminal, and what is not in it."""
    header, rows = score_table(summary)
    rows = [header, *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = [
        f'{key.ljust(widths[0])}  {value.rjust(widths[1])}  {scenes.rjust(widths[2])}' for key, value, scenes in rows
    ]
    absent = [f'{prefix}  not applicable: {_line(reason)}' for prefix, reason in summary.not_applicable.items()]
    return '\n'.join(lines + absent)


def _is_class_score(key: str) -> bool:
    return MetricKey.parse(key).class_name is not None


def published_sections(metrics: Mapping[str, float]) -> list[Section]:
    """Published figures in per cent, as printed, beside ours of the same key; only tables whose keys were evaluated."""
    published = json.loads((FOLDER / 'published.json').read_text(encoding='utf-8'))
    sections = []
    for table in published['tables']:
        for dataset, space in table['spaces'].items():
            keys = [key.format(space=space) for key in table['columns'].values()]
            if not any(key in metrics for key in keys):
                continue
            ours = [_number(100 * metrics[key], 1) if key in metrics else '-' for key in keys]
            theirs = [
                [method, *('-' if value is None else str(value) for value in values[dataset])]
                for method, values in table['rows'].items()
                if dataset in values
            ]
            note = f'{table["note"]} Published figures: {published["source"]}; in per cent. Keys: {", ".join(keys)}.'
            title = f'Published: {table["title"]}, {dataset}'
            warning = (
                'This evaluation is comparable only if its scenes, views and training data are those of the table.'
            )
            rows = [*theirs, ['this evaluation', *ours]]
            sections.append(Section(title, [note, warning], ['method', *table['columns']], rows, numbers=True))
    return sections


def _overview(evaluation: Evaluation) -> Section:
    summary = evaluation.summary
    prefixes = {_prefix(key, summary.counted) for key in summary.metrics}
    rows = [[name, value] for name, value in evaluation.source.items()]
    rows += [['scenes', str(summary.num_scenes)], ['metrics', str(len(prefixes))]]
    return Section('What was evaluated', [], ['', ''], rows)


def _troubles(summary: EvaluationSummary) -> list[Section]:
    """Sections on what was left out and what failed, if there is any."""
    missing = [[prefix, _of(summary.counted[prefix], summary), _line(r)] for prefix, r in summary.missing.items()]
    failed = [
        [scene, 'everything' if prefix == WHOLE_SCENE else prefix, _line(reason)]
        for scene, reasons in summary.failed.items()
        for prefix, reason in reasons.items()
    ]
    notes = [[scene, note] for scene, note in summary.notes.items()]
    sections = [
        Section('Not applicable', [], ['metric', 'applied to scenes', 'why not to the others'], missing),
        Section('Failed', ['The scores are of the other scenes.'], ['scene', 'metric', 'reason'], failed),
        Section('Notes on scenes', [], ['scene', 'note'], notes),
    ]
    return [section for section in sections if section.rows]


def format_troubles(summary: EvaluationSummary) -> str:
    """What failed, and notes, for the terminal; empty if all went well."""
    lines = []
    for section in _troubles(replace(summary, missing={})):
        lines += [f'{section.title}:', *('  ' + ': '.join(row) for row in section.rows)]
    return '\n'.join(lines)


def _classes(evaluation: Evaluation, folder: Path) -> list[Section]:
    groups: dict[str, dict[str, float]] = {}
    for key, value in evaluation.summary.metrics.items():
        if _is_class_score(key):
            group, _, name = key.rpartition('/')
            groups.setdefault(group, {})[name] = value
    bars = [
        _save(draw_class_bars(scores, group), group, folder / f'classes_{number}.png')
        for number, (group, scores) in enumerate(groups.items())
    ]
    names = list(dict.fromkeys(name for scores in groups.values() for name in scores))
    cells = [
        [name, *(_number(scores[name]) if name in scores else '-' for scores in groups.values())] for name in names
    ]
    title = 'Scores of classes'
    sections = [Section(title, [], ['class', *groups], cells, bars, numbers=True)] if bars else []
    if evaluation.confusion is not None:
        names = [*evaluation.label_space.names, 'void']
        labelled = evaluation.confusion.clone()
        labelled[-1] = 0
        figure = draw_confusion(labelled.numpy(), names)
        text = 'Pixels with void ground truth are left out. The class is the most probable one.'
        picture = _save(figure, 'Confusion of classes', folder / 'confusion.png')
        sections.append(Section('Confusion', [text], pictures=[picture]))
    return sections


def _scenes(evaluation: Evaluation, folder: Path) -> Section:
    summary = evaluation.summary
    if summary.ranked_by is None:
        return Section('Worst scenes', ['No metric was evaluated that scenes are ranked by.'])
    pictures = []
    for scene, source in evaluation.pictures.items():
        shutil.copyfile(source, folder / source.name)
        pictures.append(_picture(f'{scene}: {_number(summary.scenes[scene])}', folder / source.name))
    rows = [[scene, _number(score)] for scene, score in list(summary.scenes.items())[:SCENES_SHOWN]]
    text = f'By {summary.ranked_by} of the scene alone; all are in scenes.json.'
    return Section(
        'Worst scenes', [text], ['scene', summary.ranked_by.rpartition('/')[2]], rows, pictures, numbers=True
    )


def _prefix(key: str, prefixes: Mapping[str, int]) -> str:
    return max((prefix for prefix in prefixes if key.startswith(f'{prefix}/')), key=len)


def _of_prefix(key: str, counted: Mapping[str, int]) -> int:
    return counted[_prefix(key, counted)]


def _of(scenes: int, summary: EvaluationSummary) -> str:
    return f'{scenes} of {summary.num_scenes}'


def _line(text: str) -> str:
    """In one line."""
    return ' '.join(text.split())


def _number(value: float, digits: int = 4) -> str:
    return 'undefined' if math.isnan(value) else f'{value:.{digits}f}'


def _save(figure: Figure, title: str, path: Path) -> Picture:
    figure.savefig(path)
    return _picture(title, path)


def _picture(title: str, path: Path) -> Picture:
    return Picture(title, f'{path.parent.name}/{path.name}', base64.b64encode(path.read_bytes()).decode('ascii'))


def _write_json(path: Path, content: Mapping) -> None:
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + '\n', encoding='utf-8')
