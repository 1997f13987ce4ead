"""States of metrics in files: they come back as they were, and nothing is unpickled."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
import torch

from pano3d.evaluation.scene_results import SceneResult, result_from_state
from pano3d.evaluation.state_file import COUNTS, read_state, write_state
from pano3d.functional.pose_error import PoseCounts


def same(a: object, b: object) -> bool:
    if dataclasses.is_dataclass(a):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a.nan_to_num(-7), b.nan_to_num(-7)) and a.shape == b.shape
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize('kind', sorted(COUNTS))
def test_counts_come_back_as_they_were(kind, tmp_path):
    generator = torch.Generator().manual_seed(1)
    values = [torch.rand(3, 2, generator=generator, dtype=torch.float64) for _ in dataclasses.fields(COUNTS[kind])]
    tree = {
        'a': [COUNTS[kind](*values), (torch.tensor([float('nan'), 1.0]), 3, None)],
        'b': {'c': 'x', 'd': 0.1, 'e': True},
    }
    write_state(tmp_path / 'new' / 'state.npz', tree)
    assert same(read_state(tmp_path / 'new' / 'state.npz'), tree)
    assert os.listdir(tmp_path / 'new') == ['state.npz']


def test_what_cannot_be_stored_is_refused(tmp_path):
    for node in (object(), {1: 2}, {'x': np.zeros(3)}, {'a': {3}}):
        with pytest.raises(TypeError, match='cannot be stored'):
            write_state(tmp_path / 'state.npz', node)
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_one_clear_error(tmp_path):
    path = tmp_path / 'state.npz'
    write_state(path, {'a': torch.arange(1000)})
    whole = path.read_bytes()
    np.savez(tmp_path / 'other.npz', a=np.zeros(3))
    np.savez(tmp_path / 'objects.npz', description=np.array([{}], dtype=object))
    contents = [b'', whole[: len(whole) // 2], (tmp_path / 'other.npz').read_bytes()]
    for content in [*contents, (tmp_path / 'objects.npz').read_bytes()]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r'state\.npz: expected the state of an evaluated scene'):
            read_state(path)


def test_a_result_comes_back_as_it_was(tmp_path):
    counts = PoseCounts(*(torch.arange(2) for _ in range(5)))
    result = SceneResult('scene', {'pose_auc/own_geometry': [counts]}, {'a': 'none'}, {}, 'a note')
    write_state(tmp_path / 'state.npz', result.as_state())
    back = result_from_state(read_state(tmp_path / 'state.npz'))
    assert same(back.as_state(), result.as_state())
