"""ScanNet's 3D annotation: the label table, the segments of a mesh and the objects made of segments."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

MAX_OBJECT_ID = 65534  # instance = objectId + 1 must fit into uint16


@dataclass(frozen=True)
class LabelIds:
    """Ids of a raw category. The NYU40 id depends on the category, not on the ScanNet id, which a few share.

    Args:
        scannet_id: column `id` of the label table.
        nyu40_id: column `nyu40id`; None where the table leaves it blank.
    """

    scannet_id: int
    nyu40_id: int | None


class InstanceRecord(TypedDict):
    """An object in the stored scene; its ids are None if the label table lacks its raw category."""

    id: int
    raw_category: str
    scannet_id: int | None
    nyu40_id: int | None


@dataclass(frozen=True)
class SegmentGroup:
    """One entry of an aggregation file: (a part of) an object."""

    object_id: int
    label: str
    segments: tuple[int, ...]


def read_label_table(path: str | Path) -> dict[str, LabelIds]:
    """Raw category to ids, from `scannetv2-labels.combined.tsv`.

    Raises:
        ValueError: if a column is missing or an id is not a number. The message names the file and the line.
    """
    needed = {'id', 'raw_category', 'nyu40id'}
    with open(path, encoding='utf-8-sig', errors='replace', newline='') as file:
        rows = csv.DictReader(file, delimiter='\t')
        try:
            found = rows.fieldnames or []
            missing = sorted(needed - set(found))
            if missing:
                raise ValueError(
                    f'{path}: no column {", ".join(missing)}; expected {sorted(needed)}, found {list(found)}'
                )
            return {row['raw_category']: _label_ids(row, f'{path}: line {rows.line_num}') for row in rows}
        except csv.Error as error:
            raise ValueError(f'{path}: line {rows.line_num}: not a table of tab-separated values ({error})') from error


def read_segments(path: str | Path, num_vertices: int) -> np.ndarray:
    """Segment id of every mesh vertex (N,) int64; ids are arbitrary numbers.

    Raises:
        ValueError: if the file does not hold one whole number per vertex.
    """
    record = _read_json_object(path)
    indices = record.get('segIndices')
    if not isinstance(indices, list) or not all(type(index) is int for index in indices):
        raise ValueError(f'{path}: key segIndices: expected a list of whole numbers, found {_kind(indices)}')
    if len(indices) != num_vertices:
        raise ValueError(
            f'{path}: segIndices has {len(indices)} entries, but the mesh has {num_vertices} vertices; '
            'the files belong to different scans or one is cut'
        )
    try:
        return np.array(indices, np.int64)
    except OverflowError as error:
        raise ValueError(f'{path}: key segIndices: a segment id exceeds 64 bits') from error


def read_aggregation(path: str | Path) -> list[SegmentGroup]:
    """The entries of an aggregation file, in file order; one object may have several.

    Raises:
        ValueError: if an entry lacks a key or a value is of another type. The message names the file and the entry.
    """
    entries = _read_json_object(path).get('segGroups')
    if not isinstance(entries, list):
        raise ValueError(f'{path}: key segGroups: expected a list, found {_kind(entries)}')
    return [_read_group(entry, f'{path}: segGroups[{index}]') for index, entry in enumerate(entries)]


def vertex_instances(segments: np.ndarray, groups: Sequence[SegmentGroup]) -> tuple[np.ndarray, list[str]]:
    """Instance of every vertex (N,) int32: objectId + 1, 0 where no object has the vertex's segment.

    Entries of one objectId are one object. A segment that two objects claim goes to the later one.

    Args:
        segments: segment id of every vertex (N,).
        groups: as `read_aggregation` gives them.

    Returns:
        The instances, and a warning for each kind of oddity.
    """
    owner: dict[int, int] = {}
    disputed = set()
    for group in groups:
        for segment in group.segments:
            if owner.get(segment, group.object_id) != group.object_id:
                disputed.add(segment)
            owner[segment] = group.object_id
    present, inverse = np.unique(segments, return_inverse=True)
    instances = np.array([owner.get(int(segment), -1) + 1 for segment in present], np.int32)
    warnings = []
    unknown = owner.keys() - set(present.tolist())
    if unknown:
        warnings.append(f'{len(unknown)} annotated segments are not in the mesh, e.g. {min(unknown)}')
    if disputed:
        warnings.append(
            f'{len(disputed)} segments belong to several objects, e.g. {min(disputed)}; the last one has them'
        )
    return instances[inverse], warnings


def instance_records(
    groups: Sequence[SegmentGroup], table: Mapping[str, LabelIds]
) -> tuple[list[InstanceRecord], list[str]]:
    """Instance records of the scene format, ordered by id, and a warning for each label that has no class.

    An object whose label the table lacks keeps its instance; its ids are None.
    """
    labels: dict[int, str] = {}
    warnings = []
    for group in groups:
        label = labels.setdefault(group.object_id, group.label)
        if label != group.label:
            warnings.append(f'object {group.object_id} is called {label!r} and {group.label!r}; the first name is kept')
    for label in sorted(set(labels.values()) - table.keys()):
        warnings.append(f'the label table has no raw category {label!r}; its objects are stored without a class')
    records: list[InstanceRecord] = []
    for object_id, label in sorted(labels.items()):
        ids = table.get(label)
        records.append(
            {
                'id': object_id + 1,
                'raw_category': label,
                'scannet_id': ids.scannet_id if ids else None,
                'nyu40_id': ids.nyu40_id if ids else None,
            }
        )
    return records, warnings


def _label_ids(row: Mapping[str, str], where: str) -> LabelIds:
    try:
        return LabelIds(int(row['id']), int(row['nyu40id']) if row['nyu40id'] else None)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f'{where}: expected whole numbers in the columns id and nyu40id, found {row["id"]!r} and {row["nyu40id"]!r}'
        ) from error


def _read_group(entry: object, where: str) -> SegmentGroup:
    if not isinstance(entry, dict):
        raise ValueError(f'{where}: expected an object, found {_kind(entry)}')
    for key in ('objectId', 'label', 'segments'):
        if key not in entry:
            raise ValueError(f'{where}: no key {key}; expected objectId, label and segments, found {sorted(entry)}')
    object_id, label, segments = entry['objectId'], entry['label'], entry['segments']
    if type(object_id) is not int or not 0 <= object_id <= MAX_OBJECT_ID:
        raise ValueError(f'{where}: objectId: expected a whole number from 0 to {MAX_OBJECT_ID}, found {object_id!r}')
    if not isinstance(label, str):
        raise ValueError(f'{where}: label: expected text, found {_kind(label)}')
    if not isinstance(segments, list) or not all(type(segment) is int for segment in segments):
        raise ValueError(f'{where}: segments: expected a list of whole numbers, found {_kind(segments)}')
    return SegmentGroup(object_id, label, tuple(segments))


def _read_json_object(path: str | Path) -> dict[str, object]:
    try:
        record = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path}: not a JSON file ({error}). Download it again') from error
    if not isinstance(record, dict):
        raise ValueError(f'{path}: expected a JSON object, found {_kind(record)}')
    return record


def _kind(value: object) -> str:
    return 'nothing' if value is None else f'a {type(value).__name__}'
