"""Writing scenes in the stored format, so that a reader never sees half of one (docs/scene_format.md)."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .claims import claim

SCENES_FORMAT = 'pano3d-scenes'
SCENE_FORMAT = 'pano3d-scene'
VERSION = 1

_SCENE_ID = re.compile(r'[A-Za-z0-9_][A-Za-z0-9_.-]*')
_LEFTOVER = re.compile(r'\.(?P<scene>.+?)(?:\.lock|(?:\.[0-9a-f]{12})?\.(?:partial|stale))')


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

    Its name is like no other, so that no two processes fill the same one. What a killed process has left behind is
    removed by `remove_leftovers`.
    """
    final = scene_folder(out, scene_id)
    token = secrets.token_hex(6)
    partial, stale = (final.with_name(f'.{scene_id}.{token}.{state}') for state in ('partial', 'stale'))
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if final.exists():
        final.rename(stale)  # a folder that is not empty cannot be replaced in one step
    partial.rename(final)
    shutil.rmtree(stale, ignore_errors=True)


def scene_claim(out: Path, scene_id: str) -> AbstractContextManager[bool]:
    """Keep other processes from writing a scene; yields False if one of them is at it.

    Raises:
        ValueError: if the id cannot be a folder name.
    """
    folder = scene_folder(out, scene_id)
    folder.parent.mkdir(parents=True, exist_ok=True)
    return claim(folder.with_name(f'.{scene_id}.lock'))


def record_failure(out: Path, scene_id: str, error: str) -> None:
    """Let other processes know that a scene cannot be converted."""
    path = _failure(out, scene_id)
    path.parent.mkdir(exist_ok=True)
    _replace(path, error)


def recorded_failure(out: Path, scene_id: str) -> str | None:
    """Why another process could not convert a scene, None if none has said so."""
    try:
        return _failure(out, scene_id).read_text(encoding='utf-8')
    except FileNotFoundError:
        return None


def forget_failures(out: Path) -> None:
    """Have all scenes tried again."""
    shutil.rmtree(out / '.failures', ignore_errors=True)


def _failure(out: Path, scene_id: str) -> Path:
    return out / '.failures' / scene_folder(out, scene_id).name


def remove_leftovers(out: Path) -> None:
    """Remove what killed processes have left behind in the folder of the scenes, but nothing that one is at."""
    for path in sorted((out / 'scenes').glob('.*')):
        match = _LEFTOVER.fullmatch(path.name)
        if match is None or not _SCENE_ID.fullmatch(match['scene']):
            continue
        with scene_claim(out, match['scene']) as mine:  # which removes the lock itself
            if mine and path.suffix != '.lock':
                # Moved first: should somebody be at it in spite of the claim, he fails instead of finishing a part.
                stale = path.with_name(f'.{match["scene"]}.{secrets.token_hex(6)}.stale')
                path.rename(stale)
                shutil.rmtree(stale, ignore_errors=True)


def write_scene_record(folder: Path, record: Mapping[str, object]) -> None:
    """Write `scene.json`; NaN and infinity are refused."""
    full = {'format': SCENE_FORMAT, 'version': VERSION, **record}
    (folder / 'scene.json').write_text(json.dumps(full, allow_nan=False) + '\n', encoding='utf-8')


@contextmanager
def writing_lists(out: Path) -> Iterator[None]:
    """Write the files of `out` itself inside this block; other processes wait until it ends."""
    with claim(out / '.lists.lock', wait=True):
        for leftover in out.glob('.*.json*.partial'):
            leftover.unlink(missing_ok=True)
        yield


def write_split(out: Path, split: str, scenes: Sequence[tuple[str, int]]) -> None:
    """Write the list of the finished scenes of a split, (scene id, number of frames) each, in one step."""
    record = {
        'metainfo': {'format': SCENES_FORMAT, 'version': VERSION, 'split': split},
        'data_list': [{'scene_id': scene_id, 'num_frames': num_frames} for scene_id, num_frames in scenes],
    }
    write_json(out / f'{split}.json', record)


def write_json(path: Path, record: Mapping[str, object]) -> None:
    """Write a JSON file in one step, so that a reader never sees half of it."""
    _replace(path, json.dumps(record, indent=1) + '\n')


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f'.{path.name.lstrip(".")}.{secrets.token_hex(6)}.partial')
    partial.write_text(text, encoding='utf-8')
    os.replace(partial, path)
