"""Writing scenes in the stored format, so that a reader never sees half of one (docs/scene_format.md)."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCENES_FORMAT = 'pano3d-scenes'
SCENE_FORMAT = 'pano3d-scene'
VERSION = 1

_SCENE_ID = re.compile(r'[A-Za-z0-9_][A-Za-z0-9_.-]*')


@dataclass
class ConversionReport:
    """What a conversion left out or found odd. Frames are named by their ids."""

    frames_total: int = 0
    frames_without_pose: list[str] = field(default_factory=list)
    frames_marked_bad: list[str] = field(default_factory=list)
    frames_damaged: list[str] = field(default_factory=list)
    instance_maps_missing: list[str] = field(default_factory=list)
    instance_maps_rasterised: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def scene_folder(out: Path, scene_id: str) -> Path:
    """Where a scene is stored.

    Raises:
        ValueError: if the id cannot be a folder name.
    """
    if not _SCENE_ID.fullmatch(scene_id):
        raise ValueError(f'scene id {scene_id!r}: expected letters, digits, `_`, `-` and `.`')
    return out / 'scenes' / scene_id


def finished_scene(out: Path, scene_id: str) -> dict[str, Any] | None:
    """The record of a stored scene, None if there is none.

    Raises:
        ValueError: if the id cannot be a folder name.
    """
    try:
        record = json.loads((scene_folder(out, scene_id) / 'scene.json').read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    known = isinstance(record, dict) and (record.get('format'), record.get('version')) == (SCENE_FORMAT, VERSION)
    return record if known else None


@contextmanager
def new_scene(out: Path, scene_id: str) -> Iterator[Path]:
    """A folder to fill. It takes the scene's place when the block ends without an error, and is removed otherwise.

    What a killed run has left behind is removed by the next one. Only one process may write a scene at a time.
    """
    final = scene_folder(out, scene_id)
    partial, stale = (final.with_name(f'.{scene_id}.{state}') for state in ('partial', 'stale'))
    for leftover in (partial, stale):
        if leftover.exists():
            shutil.rmtree(leftover)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial)
        raise
    if final.exists():
        final.rename(stale)  # a folder that is not empty cannot be replaced in one step
    partial.rename(final)
    shutil.rmtree(stale, ignore_errors=True)


def write_scene_record(folder: Path, record: Mapping[str, object]) -> None:
    """Write `scene.json`; NaN and infinity are refused."""
    full = {'format': SCENE_FORMAT, 'version': VERSION, **record}
    (folder / 'scene.json').write_text(json.dumps(full, allow_nan=False) + '\n', encoding='utf-8')


def write_split(out: Path, split: str, scenes: Sequence[tuple[str, int]]) -> None:
    """Write the list of the finished scenes of a split, (scene id, number of frames) each, in one step."""
    record = {
        'metainfo': {'format': SCENES_FORMAT, 'version': VERSION, 'split': split},
        'data_list': [{'scene_id': scene_id, 'num_frames': num_frames} for scene_id, num_frames in scenes],
    }
    partial = out / f'.{split}.json.partial'
    partial.write_text(json.dumps(record, indent=1) + '\n', encoding='utf-8')
    os.replace(partial, out / f'{split}.json')
