"""Files of predictions: where they are, and their arrays, read so that no file can run code or fill the memory."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np

SHARE_OF_MEMORY = 0.5
"""Files whose arrays would take more of the machine's memory are refused."""


def find_predictions(folder: str | Path) -> dict[str, Path]:
    """Files of predictions by scene.

    Raises:
        ValueError: if there is no such folder, no prediction in it, or two of one scene.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f'{folder}: no such folder of predictions')
    flat = {path.stem: path for path in sorted(folder.glob('*.npz'))}
    nested = {path.parent.name: path for path in sorted(folder.glob('*/prediction.npz'))}
    if both := sorted(flat.keys() & nested.keys()):
        raise ValueError(f'{folder}: two predictions of scene {both[0]}: {flat[both[0]]} and {nested[both[0]]}')
    if not flat and not nested:
        raise ValueError(f'{folder}: expected <scene>.npz or <scene>/prediction.npz, found neither')
    return flat | nested


def prediction_files(folder: str | Path) -> list[list[str | int]]:
    """Name, size and time of all predictions: what changes when one of them does."""
    return [
        [scene, path.stat().st_size, path.stat().st_mtime_ns]
        for scene, path in sorted(find_predictions(folder).items())
    ]


def read_arrays(path: str | Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Those of the arrays `names` that an .npz file has; others are not looked at.

    What every array claims to be is compared with what is stored before any of it is read.

    Raises:
        ValueError: if it is no .npz file, an array holds objects, is cut short or longer than it claims, or all of them
            would take more than half of the memory of the machine; does not name the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix('.npy'): info for info in archive.infolist()}
            members = {name: info for name, info in members.items() if name in names}
            total = sum(_claimed_bytes(archive, name, info) for name, info in members.items())
            limit = SHARE_OF_MEMORY * os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
            if total > limit:
                raise ValueError(
                    f'its arrays would take {total / 1e9:.1f} GB, more than {limit / 1e9:.1f} GB, half of the memory '
                    'here; save only the views that are evaluated, and `semantic` in float16'
                )
            return {name: _read(archive, info) for name, info in members.items()}
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise ValueError(f'expected an .npz file of plain arrays: {error}') from error


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as file:
        array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _claimed_bytes(archive: zipfile.ZipFile, name: str, info: zipfile.ZipInfo) -> int:
    """Bytes of an array by its header."""
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read_header:
            raise ValueError(f'expected plain arrays, found `{name}` in version {version} of the .npy format')
        shape, _, dtype = read_header[version](file)
        header = file.tell()
    if dtype.hasobject:
        raise ValueError(f'expected plain arrays, found `{name}` of type {dtype}, whose objects are not unpickled')
    claimed = int(np.prod([*shape, dtype.itemsize], dtype=object))
    if min(shape, default=0) < 0 or header + claimed != info.file_size:
        raise ValueError(
            f'expected plain arrays, found `{name}` of {info.file_size - header} bytes, its header claims '
            f'{claimed} for the shape {shape}'
        )
    return claimed
