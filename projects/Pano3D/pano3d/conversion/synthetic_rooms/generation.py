"""Makes a whole folder of made-up rooms, in several processes, and goes on where an earlier run stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import partial
from pathlib import Path

import cv2
from tqdm import tqdm

from .raw_writer import write_category_table, write_scene, write_splits
from .rendering import Recording, RecordingOptions
from .room import build_room

FIRST_SCENE = 5000
MAX_SCENES = 4000
SETTINGS_FILE = 'synthetic_rooms.json'
DEFAULT_OPTIONS = RecordingOptions()


def scene_name(index: int) -> str:
    """Name of room `index`, in a range that no real scan has (those end at scene0806): scene5000_00 to scene8999_00."""
    return f'scene{FIRST_SCENE + index:04d}_00'


def write_room(root: Path, index: int, *, seed: int, options: RecordingOptions, crowded: bool = False) -> None:
    """Write room `index` of a seed below `root`/scans, complete or not at all.

    The same arguments give the same bytes.
    """
    cv2.setNumThreads(1)
    name = scene_name(index)
    final, unfinished = root / 'scans' / name, root / 'scans' / f'.{name}.unfinished'
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    room = build_room(seed, index, spacing=options.spacing, crowded=crowded)
    write_scene(unfinished, name, Recording(room, seed=seed, index=index, options=options))
    unfinished.rename(final)


def write_rooms(
    root: str | Path,
    *,
    train: int,
    val: int,
    seed: int = 0,
    options: RecordingOptions = DEFAULT_OPTIONS,
    crowded: bool = False,
    num_workers: int = 1,
    show_progress: bool = True,
) -> None:
    """Write a ScanNet v2 download of made-up rooms.

    Scenes that are there already are kept: a stopped run can be repeated, and a finished one extended by more training
    rooms. Rooms 0 to `val` - 1 of the seed are for validation, the following ones for training. Room k of a seed is the
    same whatever the number of rooms and of workers.

    Args:
        root: folder to write; made if it does not exist.
        train, val: numbers of rooms.
        seed: of all choices, >= 0.
        options: how rooms are recorded.
        crowded: rooms with 20 to 60 objects, many of them equal and side by side.
        num_workers: processes that work at the same time; 1 means this one.
        show_progress: draw a bar with rate and remaining time on stderr.

    Raises:
        ValueError: if a number is out of range, or `root` holds scenes of another seed, kind or of other options.
    """
    root = Path(root)
    if min(train, val) < 0 or not 1 <= train + val <= MAX_SCENES:
        raise ValueError(f'expected 1 to {MAX_SCENES} rooms, got `train` {train} and `val` {val}')
    if num_workers < 1:
        raise ValueError(f'`num_workers` must be at least 1, got {num_workers}')
    if seed < 0:
        raise ValueError(f'`seed` must not be negative, got {seed}')
    _claim(root, {'seed': seed, **asdict(options), **({'crowded': True} if crowded else {})})
    names = [scene_name(index) for index in range(train + val)]
    write_category_table(root / 'scannetv2-labels.combined.tsv')
    write_splits(root / 'Tasks' / 'Benchmark', {'train': names[val:], 'val': names[:val]})
    done = [(root / 'scans' / name).is_dir() for name in names]
    work = partial(write_room, root, seed=seed, options=options, crowded=crowded)
    with tqdm(total=len(names), initial=sum(done), unit='room', disable=not show_progress) as bar:
        for _ in _run(work, [index for index, ready in enumerate(done) if not ready], num_workers):
            bar.update()


def _claim(root: Path, settings: dict[str, object]) -> None:
    """Note the settings in a new folder; refuse a folder that was made with others."""
    path = root / SETTINGS_FILE
    text = json.dumps(settings, indent=2, sort_keys=True) + '\n'
    if path.is_file():
        found = path.read_text()
        if found != text:
            raise ValueError(
                f'{path}: the folder holds scenes of other settings: expected {json.loads(text)}, found '
                f'{json.loads(found)}. Give the same settings or another folder'
            )
    elif (root / 'scans').is_dir() and any((root / 'scans').iterdir()):
        raise ValueError(
            f'{root}: holds scans that were not made here ({SETTINGS_FILE} is missing). Give an empty folder'
        )
    root.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _run(work: partial[None], indices: list[int], num_workers: int) -> Iterator[None]:
    """Do the work for every index; one item per finished one."""
    if num_workers == 1:
        for index in indices:
            yield work(index)
        return
    with ProcessPoolExecutor(num_workers) as pool:
        futures = [pool.submit(work, index) for index in indices]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
