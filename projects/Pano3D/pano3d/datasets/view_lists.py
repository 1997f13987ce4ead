"""Fixed lists of views, so that a figure can be computed again: `{"views": {"scene0011_00": [["000000", "000020"]]}}`.

A scene has one list or more, such as pairs; each is a sample of its own, and its views come in the order of the list.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .scene_record import SceneRecord, check_format, read_json

FORMAT = 'pano3d-views'
VERSION = 1
ViewLists = Mapping[str, Sequence[Sequence[str]]]


def read_view_lists(path: str, *, backend_args: dict[str, Any] | None = None) -> dict[str, list[list[str]]]:
    """Scene id -> its lists of frame ids.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is of another kind, or a scene has not at least one list of different frame ids.
    """
    record = read_json(path, backend_args=backend_args)
    try:
        check_format(record, FORMAT, VERSION)
        for scene_id, lists in record['views'].items():
            if not (isinstance(lists, list) and lists and all(map(_is_list_of_ids, lists))):
                raise ValueError(f'scene {scene_id}: expected lists of different frame ids, found {str(lists)[:100]}')
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f'{path}: not a list of views ({error!r}); tools/list_views.py writes one') from error
    return dict(record['views'])


def write_view_lists(path: Path, views: ViewLists) -> None:
    """The file that `read_view_lists` reads, and the folder around it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {'format': FORMAT, 'version': VERSION, 'views': views}
    path.write_text(json.dumps(record, indent=1) + '\n', encoding='utf-8')


def parse_view_lines(text: str) -> dict[str, list[list[str]]]:
    """The lists of a text of lines `SCENE FRAME FRAME ...`; what follows a `#` is a comment.

    Raises:
        ValueError: if a line has no frame, or one twice, or there is none at all.

    >>> parse_view_lines('scene0011_00 0 20  # a pair')
    {'scene0011_00': [['0', '20']]}
    """
    views: dict[str, list[list[str]]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition('#')[0].split()
        if words and not _is_list_of_ids(words[1:]):
            raise ValueError(f'line {number}: expected SCENE FRAME FRAME ..., each frame once, found {line[:100]!r}')
        if words:
            views.setdefault(words[0], []).append(words[1:])
    if not views:
        raise ValueError('expected lines of SCENE FRAME FRAME ..., found none')
    return views


def match_frames(frames: Iterable[str], scene: SceneRecord) -> list[str]:
    """The ids in `scene` of frames that are given as ids or as numbers of the recording, in their order.

    Raises:
        ValueError: if the scene lacks one or two of them are the same.
    """
    by_id = {frame.id: frame.id for frame in scene.frames}
    by_number = {_as_number(frame.id): frame.id for frame in scene.frames if _as_number(frame.id) is not None}
    wanted = list(frames)
    found = [by_id.get(frame) or by_number.get(_as_number(frame)) for frame in wanted]
    missing = [frame for frame, frame_id in zip(wanted, found, strict=True) if frame_id is None]
    if missing:
        raise ValueError(
            f'scene {scene.scene_id} has no frames {missing[:5]} among its {len(scene.frames)}; was it converted with '
            'another `--frame-skip`, or have they no pose?'
        )
    ids = [frame_id for frame_id in found if frame_id is not None]
    if len(set(ids)) < len(ids):
        raise ValueError(f'scene {scene.scene_id}: a frame is listed twice among {wanted[:10]}')
    return ids


def _as_number(frame: str) -> int | None:
    return int(frame) if frame.isascii() and frame.isdigit() else None


def _is_list_of_ids(frames: object) -> bool:
    is_list = isinstance(frames, list) and len(frames) > 0 and all(isinstance(frame, str) for frame in frames)
    return is_list and len(set(frames)) == len(frames)
