"""Reference values by the kind of files they are about; a folder that is given need not have all kinds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def _raw_formats(root: Path) -> Path:
    """The folder of raw releases, which is `root` itself or in it."""
    return root / 'scannet_raw' if (root / 'scannet_raw').is_dir() else root


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per scene with expected values (`scannet_scene`) and per kind of damage (`scannet_case`)."""
    root = metafunc.config.getoption('--golden-root')
    raw = None if root is None else _raw_formats(root.resolve())
    for release in ('scannet', 'scannetpp'):
        if f'{release}_scene' in metafunc.fixturenames:
            files = [] if raw is None else (raw / 'expected' / release).glob('*.npz')
            metafunc.parametrize(f'{release}_scene', sorted(path.stem for path in files))
        if f'{release}_case' in metafunc.fixturenames:
            file = None if raw is None else raw / 'broken' / 'cases.json'
            cases = json.loads(file.read_text())['cases'] if file is not None and file.is_file() else []
            mine = [case for case in cases if _is_of(case, release)]
            metafunc.parametrize(f'{release}_case', mine, ids=[case['id'] for case in mine])


def _is_of(case: dict[str, list[str]], release: str) -> bool:
    return all(name.startswith(f'{release}/') for name in [*case['overlay'], *case.get('remove', [])])


@pytest.fixture(scope='session')
def raw_formats(golden_root: Path) -> Path:
    """Raw releases, damaged ones, and what the official readers return for them."""
    root = _raw_formats(golden_root)
    if not (root / 'expected').is_dir():
        pytest.skip('the folder given as --golden-root has no raw releases')
    return root


@pytest.fixture(scope='session')
def protocol_values(golden_root: Path) -> Path:
    """What public evaluators say of labels and geometry: the folder `eval`, or the folder given itself."""
    for folder in (golden_root / 'eval', golden_root):
        if (folder / 'expected.json').is_file():
            return folder
    pytest.skip('the folder given as --golden-root has no values of protocols')
