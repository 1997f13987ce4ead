"""Converting a list of scenes with all processes that were started for it, on one machine or many.

Each process goes through the whole list and converts what no other one has or is at, so that no part of the list waits
for a process that has died, and all of them end when the last scene does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from .batch import ConversionSummary, SceneResult, guarded, iterate_scenes
from .claims import check_claims
from .scene_store import (
    forget_failures,
    record_failure,
    recorded_failure,
    remove_leftovers,
    scene_claim,
    scene_folder,
    write_json,
    write_split,
    writing_lists,
)
from .share import Share

POLL_SECONDS = 0.5

Find = Callable[[str], SceneResult | None]


@dataclass(frozen=True)
class _Busy(SceneResult):
    """Another process is at this scene."""


def convert_scenes(
    out: Path,
    scenes_of: Mapping[str, Sequence[str]],
    convert: Callable[[str], SceneResult],
    find: Find,
    *,
    share: Share,
    num_workers: int,
    show_progress: bool,
    more: Mapping[str, Mapping[str, object]] | None = None,
) -> ConversionSummary:
    """Convert the scenes of all splits, together with other processes of the same call, and write the split lists.

    A scene is tried by one process at a time. An error in one is recorded and the others go on. The lists have all
    scenes that are finished by then, whoever has converted them.

    Args:
        out: folder of the stored scenes; is made.
        scenes_of: scene ids by split.
        convert: converts one scene; must be picklable if there are several workers.
        find: the result of a scene that is stored with the same settings, None if there is none.
        share: which scenes to start with.
        num_workers: processes; 1 means this one.
        show_progress: draw a bar with rate and remaining time on stderr.
        more: further JSON files beside the lists, by name.

    Returns:
        Results of all scenes, those of other processes too.

    Raises:
        ValueError: if the file system of `out` cannot keep processes apart.
    """
    scene_ids = list(dict.fromkeys(scene_id for scenes in scenes_of.values() for scene_id in scenes))
    (out / 'scenes').mkdir(parents=True, exist_ok=True)
    check_claims(out)
    remove_leftovers(out)
    forget_failures(out)
    results: dict[str, SceneResult] = {}
    attempt = partial(_attempt, out=out, convert=convert, alone=share.world_size == 1)
    turn = share.order(scene_ids)
    with tqdm(total=len(scene_ids), unit='scene', disable=not show_progress) as bar:
        while turn:
            for result in iterate_scenes(turn, attempt, num_workers=num_workers):
                if not isinstance(result, _Busy):
                    results[result.scene_id] = result
                    bar.update()
            turn = _released(out, [scene_id for scene_id in scene_ids if scene_id not in results])
    remove_leftovers(out)
    with writing_lists(out):
        final = [_latest(results[scene_id], find) for scene_id in scene_ids]
        num_frames = {result.scene_id: result.num_frames for result in final if result.error is None}
        for split, scenes in scenes_of.items():
            write_split(out, split, [(scene_id, num_frames[scene_id]) for scene_id in scenes if scene_id in num_frames])
        for name, record in (more or {}).items():
            write_json(out / name, record)
    return ConversionSummary(tuple(final))


def _attempt(scene_id: str, *, out: Path, convert: Callable[[str], SceneResult], alone: bool) -> SceneResult:
    with scene_claim(out, scene_id) as mine:
        if not mine:
            return _Busy(scene_id)
        error = recorded_failure(out, scene_id)
        if error is not None:
            return SceneResult(scene_id, reused=True, error=error)
        result = guarded(convert, scene_id)
        if result.error is not None and not alone:
            record_failure(out, scene_id, result.error)
        return result


def _released(out: Path, scene_ids: Sequence[str]) -> list[str]:
    """Those of the scenes that no process is at any more; waits until there is one, if there are scenes at all."""
    while scene_ids:
        free = [scene_id for scene_id in scene_ids if _is_free(out, scene_id)]
        if free:
            return free
        time.sleep(POLL_SECONDS)
    return []


def _is_free(out: Path, scene_id: str) -> bool:
    if not scene_folder(out, scene_id).with_name(f'.{scene_id}.lock').exists():
        return True
    with scene_claim(out, scene_id) as mine:
        return mine


def _latest(result: SceneResult, find: Find) -> SceneResult:
    """The result, or that of a process that has meanwhile converted what could not be converted here."""
    if result.error is None:
        return result
    try:
        return find(result.scene_id) or result
    except (ValueError, OSError):
        return result
