"""Makes a whole folder of made-up rooms, in several processes, and goes on where an earlier run stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
from mmengine.utils import ProgressBar

from .raw_writer import write_category_table, write_scene, write_splits
from .rendering import Recording, RecordingOptions
from .room import build_room

FIRST_SCENE = 5000
MAX_SCENES = 4000
SETTINGS_FILE = 'synthetic_rooms.json'


def scene_name(index: int) -> str:
    """Name of room `index`, in a range that no real scan has (those end at scene0806): scene5000_00 to scene8999_00."""
    return f'scene{FIRST_SCENE + index:04d}_00'


def write_room(root: Path, index: int, *, seed: int, options: RecordingOptions) -> None:
    """Write room `index` of a seed below `root`/scans, complete or not at all.

    The same seed, index and options give the same bytes.
    """
    cv2.setNumThreads(1)
    name = scene_name(index)
    final, unfinished = root / 'scans' / name, root / 'scans' / f'.{name}.unfinished'
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    room = build_room(seed, index, spacing=options.spacing)
    write_scene(unfinished, name, Recording(room, seed=seed, index=index, options=options))
    unfinished.rename(final)


def make_synthetic_scannet(
    root: str | Path,
    *,
    num_scenes: int,
    num_val: int,
    seed: int,
    options: RecordingOptions,
    num_workers: int = 1,
) -> None:
    """Write a ScanNet v2 download of made-up rooms.

    Scenes that are there already are kept; so a stopped run can be repeated, and a finished one extended. The first
    `num_val` scenes are for validation, the others for training. Room k of a seed is the same whatever the number of
    scenes, and whatever the number of workers.

    Args:
        root: folder to write; made if it does not exist.
        num_scenes: number of rooms.
        num_val: how many of them are for validation.
        seed: of all choices, >= 0.
        options: how rooms are recorded.
        num_workers: processes that work at the same time.

    Raises:
        ValueError: if a number is out of range, or `root` holds scenes of another seed or of other options.
    """
    root = Path(root)
    if not 0 <= num_val <= num_scenes <= MAX_SCENES or num_scenes == 0:
        raise ValueError(
            f'expected 0 <= num_val <= num_scenes with 1 to {MAX_SCENES} scenes, got num_val {num_val} and '
            f'num_scenes {num_scenes}'
        )
    if num_workers < 1:
        raise ValueError(f'`num_workers` must be at least 1, got {num_workers}')
    if seed < 0:
        raise ValueError(f'`seed` must not be negative, got {seed}')
    _claim(root, {'seed': seed, **asdict(options)})
    names = [scene_name(index) for index in range(num_scenes)]
    write_category_table(root / 'scannetv2-labels.combined.tsv')
    write_splits(root / 'Tasks' / 'Benchmark', {'train': names[num_val:], 'val': names[:num_val]})
    missing = [index for index, name in enumerate(names) if not (root / 'scans' / name).is_dir()]
    if not missing:
        return
    bar = ProgressBar(len(missing))
    for _ in _run(partial(write_room, root, seed=seed, options=options), missing, num_workers):
        bar.update()
    bar.file.write('\n')


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
    # Spawned, because forking a process in which the ray caster has started threads can block.
    with ProcessPoolExecutor(num_workers, mp_context=get_context('spawn')) as pool:
        futures = [pool.submit(work, index) for index in indices]
        for future in as_completed(futures):
            yield future.result()
