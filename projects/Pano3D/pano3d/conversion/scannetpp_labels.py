"""ScanNet++'s annotation: the classes of its benchmark, and the two official rules for vertices of several objects."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypedDict

import numpy as np

from .annotation import SegmentGroup

MAX_LABELS = 3
NO_GROUP = -1


class PPInstanceRecord(TypedDict):
    """An object in the stored scene; `scannetpp_id` is None if the benchmark lacks its class."""

    id: int
    object_id: int
    raw_category: str
    scannetpp_id: int | None
    crowd: bool


@dataclass(frozen=True)
class BenchmarkClasses:
    """The classes of the semantic benchmark, as the release's own files say.

    Args:
        names: class names; the position is the class id.
        things: names of the classes with countable instances.
        semantic_map: annotator's label to class name, None = not used; a label that is missing keeps its name.
        crowds: labels that are renamed to a countable class but are not one object of it ('books' to 'book').
    """

    names: tuple[str, ...]
    things: frozenset[str]
    semantic_map: Mapping[str, str | None]
    crowds: frozenset[str]

    @classmethod
    def read(cls, folder: Path) -> BenchmarkClasses:
        """From `top100.txt`, `top100_instance.txt` and `map_benchmark.csv`.

        Raises:
            ValueError: if a file is missing, empty, repeats a class or lacks a column.
        """
        names = _read_names(folder / 'top100.txt')
        things = frozenset(_read_names(folder / 'top100_instance.txt'))
        rows = _read_map(folder / 'map_benchmark.csv')
        semantic_map = {label: None if new == 'None' else new or label for label, new, _ in rows}
        # The instance column empty beside a filled semantic one: of that class, but not an object of it.
        crowds = {label for label, new, instance in rows if new in things and instance in ('', 'None')}
        return cls(names, things, semantic_map, frozenset(crowds))

    def class_id(self, label: str) -> int | None:
        """Class of an annotator's label, None if the benchmark does not use it."""
        name = self.semantic_map.get(label, label)
        return self.names.index(name) if name in self.names else None

    def label_space(self) -> dict[str, object]:
        """The content of a label-space file: classes without countable instances are stuff."""
        classes = [{'name': name, 'id': i, 'stuff': name not in self.things} for i, name in enumerate(self.names)]
        return {'name': 'scannetpp100', 'source_key': 'scannetpp_id', 'classes': classes}


def instance_records(groups: Sequence[SegmentGroup], classes: BenchmarkClasses) -> list[PPInstanceRecord]:
    """One record per group, in file order; the id is the position + 1, as one objectId is not promised to be unique."""
    return [
        {
            'id': position + 1,
            'object_id': group.object_id,
            'raw_category': group.label,
            'scannetpp_id': classes.class_id(group.label),
            'crowd': group.label in classes.crowds,
        }
        for position, group in enumerate(groups)
    ]


def vertices_of_groups(segments: np.ndarray, groups: Sequence[SegmentGroup]) -> tuple[list[np.ndarray], list[str]]:
    """The vertices of each group, rising, and a warning if segments are missing.

    Args:
        segments: segment id of every vertex (N,); in this release a segment is a vertex.
        groups: as `read_aggregation` gives them.

    Raises:
        ValueError: if a segment id exceeds 64 bits.
    """
    present, inverse = np.unique(segments, return_inverse=True)
    found, unknown = [], 0
    for position, group in enumerate(groups):
        try:
            wanted = np.unique(np.array(group.segments, np.int64))
        except OverflowError as error:
            raise ValueError(f'segGroups[{position}]: a segment id exceeds 64 bits') from error
        places = np.searchsorted(present, wanted).clip(max=max(len(present) - 1, 0))
        known = present[places] == wanted if len(present) else np.zeros(len(wanted), bool)
        unknown += int(np.count_nonzero(~known))
        chosen = np.zeros(len(present), bool)
        chosen[places[known]] = True
        found.append(np.flatnonzero(chosen[inverse]))
    return found, [f'{unknown} annotated segments are not in the mesh'] if unknown else []


def benchmark_groups(members: Sequence[np.ndarray], used: Sequence[bool], num_vertices: int) -> np.ndarray:
    """The groups of each vertex under the official rule for 3D, (N, 3) positions, `NO_GROUP` = none.

    Groups are taken in file order; one gives its label to those of its vertices that have fewer than three labels.

    Args:
        members: the vertices of each group.
        used: whether a group's class is in the benchmark; other groups are passed over.
        num_vertices: N.
    """
    labels = np.full((num_vertices, MAX_LABELS), NO_GROUP, np.int32)
    count = np.zeros(num_vertices, np.uint8)
    for position, vertices in enumerate(members):
        if used[position]:
            takers = vertices[count[vertices] < MAX_LABELS]
            labels[takers, count[takers]] = position
            count[takers] += 1
    return labels


def smallest_group(labels: np.ndarray, num_groups: int) -> np.ndarray:
    """Of the groups of each vertex the one that labels the fewest vertices, the first on ties, (N,); the 3D rule.

    Args:
        labels: (N, 3), from `benchmark_groups`.
        num_groups: how many groups there are in all.
    """
    sizes = np.bincount(labels[labels != NO_GROUP], minlength=num_groups)
    per_label = np.where(labels == NO_GROUP, np.iinfo(np.int64).max, np.append(sizes, 0)[labels])
    return labels[np.arange(len(labels)), per_label.argmin(axis=1)]


def last_group(members: Sequence[np.ndarray], num_vertices: int) -> np.ndarray:
    """The last group of the file that has a vertex, whatever its class, (N,); the official rule for images."""
    groups = np.full(num_vertices, NO_GROUP, np.int32)
    for position, vertices in enumerate(members):
        groups[vertices] = position
    return groups


def read_excluded_vertices(path: Path, num_vertices: int) -> np.ndarray:
    """Vertices that are not to be evaluated (N,) bool, from a file with one vertex number per line.

    Raises:
        ValueError: if a line is no vertex number.
    """
    excluded = np.zeros(num_vertices, bool)
    for number, line in enumerate(path.read_text(encoding='utf-8', errors='replace').split('\n'), 1):
        word = line.strip()
        if not word:
            continue
        if not (word.isascii() and word.isdigit() and len(word) < 12 and int(word) < num_vertices):
            raise ValueError(
                f'{path}: line {number}: expected a vertex number below {num_vertices}, found {word[:80]!r}'
            )
        excluded[int(word)] = True
    return excluded


def read_bad_frames(path: Path) -> set[str]:
    """File names, without folders, of the frames that `transforms.json` marks as bad (blurred or badly lit).

    Raises:
        ValueError: if the file is not of this kind.
    """
    try:
        record = json.loads(path.read_bytes())
        frames = [*record['frames'], *record.get('test_frames', [])]
        return {PurePosixPath(frame['file_path']).name for frame in frames if frame.get('is_bad', False)}
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'{path}: expected frames with file_path and is_bad, found {error!r}') from error


def _read_names(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise ValueError(
            f'no list of classes {path}: `raw` must be the folder of a ScanNet++ release with its metadata'
        )
    names = tuple(
        line.strip() for line in path.read_text(encoding='utf-8', errors='replace').splitlines() if line.strip()
    )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if not names or repeated:
        raise ValueError(
            f'{path}: expected class names, each once; found {f"{repeated} twice" if repeated else "none"}'
        )
    return names


def _read_map(path: Path) -> list[tuple[str, str, str]]:
    """(label, semantic_map_to, instance_map_to) of every row."""
    needed = ('class', 'semantic_map_to', 'instance_map_to')
    if not path.is_file():
        raise ValueError(
            f'no table of labels {path}: `raw` must be the folder of a ScanNet++ release with its metadata'
        )
    with open(path, encoding='utf-8', errors='replace', newline='') as file:
        try:
            rows = csv.DictReader(file)
            found = list(rows.fieldnames or [])
            missing = sorted(set(needed) - set(found))
            if missing:
                raise ValueError(f'{path}: no column {", ".join(missing)}; expected {list(needed)}, found {found}')
            return [tuple(row[key] or '' for key in needed) for row in rows]  # type: ignore[misc]
        except csv.Error as error:
            raise ValueError(f'{path}: not a table of comma-separated values ({error})') from error
