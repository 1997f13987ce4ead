"""The files of a ScanNet v2 release: split lists, and what belongs to one scan."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SPLITS = ('train', 'val', 'test')
FOLDERS = ('scans', 'scans_test')


@dataclass(frozen=True)
class Scan:
    """The files of one scan. Scans in `scans_test` have no annotation.

    Args:
        folder: the scan's folder, named by its scene id.
    """

    folder: Path

    @classmethod
    def find(cls, raw: Path, scene_id: str) -> Scan | None:
        """The scan in `raw/scans` or `raw/scans_test`, None if it is in neither."""
        folders = (raw / parent / scene_id for parent in FOLDERS)
        return next((cls(folder) for folder in folders if folder.is_dir()), None)

    @property
    def annotated(self) -> bool:
        return self.folder.parent.name != 'scans_test'

    def path(self, ending: str) -> Path:
        return self.folder / f'{self.folder.name}{ending}'

    def sizes(self) -> dict[str, int]:
        """Bytes of every file, by name; tells whether a scan has changed since it was converted."""
        return {path.name: path.stat().st_size for path in sorted(self.folder.iterdir()) if path.is_file()}


def scans_of(raw: Path) -> list[str]:
    """Names of the folders in `raw/scans` and `raw/scans_test`, sorted; those that start with a dot are no scans."""
    scans = (path for parent in FOLDERS for path in (raw / parent).glob('[!.]*') if path.is_dir())
    return sorted({scan.name for scan in scans})


def read_splits(folder: Path) -> dict[str, list[str]]:
    """Scene ids by split, from those of `scannetv2_{train,val,test}.txt` that are there.

    Raises:
        ValueError: if there is none.
    """
    paths = {split: folder / f'scannetv2_{split}.txt' for split in SPLITS}
    scenes_of = {
        split: list(dict.fromkeys(path.read_text(encoding='utf-8', errors='replace').split()))
        for split, path in paths.items()
        if path.is_file()
    }
    if not scenes_of:
        raise ValueError(f'{folder}: no split list; expected at least one of {[path.name for path in paths.values()]}')
    return scenes_of


def read_axis_alignment(path: Path) -> list[list[float]] | None:
    """The 4x4 matrix `axisAlignment` of a scan's text file, aligned = matrix @ raw; None if the file has none.

    Raises:
        ValueError: if it is not 16 finite numbers.
    """
    match = re.search(r'^\s*axisAlignment\s*=(.*)$', path.read_text(encoding='utf-8', errors='replace'), re.MULTILINE)
    if match is None:
        return None
    try:
        numbers = np.array([float(word) for word in match[1].split()])
    except ValueError as error:
        raise ValueError(f'{path}: axisAlignment: expected 16 numbers, but {error}') from error
    if len(numbers) != 16 or not np.isfinite(numbers).all():
        raise ValueError(f'{path}: axisAlignment: expected 16 finite numbers, found {len(numbers)}: {match[1].strip()}')
    matrix: list[list[float]] = numbers.reshape(4, 4).tolist()
    return matrix
