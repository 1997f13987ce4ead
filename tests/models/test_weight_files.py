"""Files as they are released or damaged: what is read, what is left out, what is refused, and that nothing is run."""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import os
import pathlib
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pano3d.models.loading import (
    differences,
    load_strictly,
    read_file,
    rename,
    tensors_of,
)
from pano3d.models.weight_files import LeftOut, left_out


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        'weight': torch.randn(3, 2, generator=generator),
        'bias': torch.randn(3, generator=generator),
    }


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def odd_namespace() -> argparse.Namespace:
    """More than any released file is known to hold."""
    return argparse.Namespace(
        model="Network(size=(512, 512), head='dpt')",
        learning_rate=1e-4,
        output_dir=pathlib.Path('runs') / 'first',
        inner=argparse.Namespace(steps=[1, 2.5, None], names={'a', 'b'}),
        best=np.float64(0.25),
        sizes=np.arange(3),
        space=types.SimpleNamespace(a=1),
        counts=collections.defaultdict(list, {'a': [1]}),
        device=torch.device('cpu'),
    )


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
def test_arguments_beside_the_weights_are_left_out(tmp_path, zipped):
    content = {'args': odd_namespace(), 'model': weights(), 'epoch': 4}
    torch.save(content, tmp_path / 'a.pth', _use_new_zipfile_serialization=zipped)
    found = read_file(tmp_path / 'a.pth')
    assert isinstance(found['args'], LeftOut)
    assert vars(found['args']) == {}
    assert found['epoch'] == 4
    assert left_out(found) == 1
    assert_same(tensors_of(found, tmp_path / 'a.pth'), weights())


def test_left_out_classes_are_not_even_imported(tmp_path, monkeypatch):
    """A stand-in is made for a configuration node whose package is not installed, or would run code."""
    trap, package = types.ModuleType('omegaconf.dictconfig'), types.ModuleType('omegaconf')

    class DictConfig:
        def __init__(self) -> None:
            self.content = {'a': 1}

        def __setstate__(self, state: object) -> None:
            raise AssertionError('the original was made')

    DictConfig.__module__, DictConfig.__qualname__ = 'omegaconf.dictconfig', 'DictConfig'
    trap.DictConfig = DictConfig
    monkeypatch.setitem(sys.modules, 'omegaconf', package)
    monkeypatch.setitem(sys.modules, 'omegaconf.dictconfig', trap)
    torch.save({'cfg': DictConfig(), 'model': weights()}, tmp_path / 'a.pth')
    assert_same(tensors_of(read_file(tmp_path / 'a.pth'), tmp_path / 'a.pth'), weights())
    monkeypatch.delitem(sys.modules, 'omegaconf.dictconfig')
    assert isinstance(read_file(tmp_path / 'a.pth')['cfg'], LeftOut)


def test_nothing_stays_allowed_after_reading(tmp_path):
    torch.save({'args': argparse.Namespace(), 'model': weights()}, tmp_path / 'a.pth')
    before = torch.serialization.get_safe_globals()
    read_file(tmp_path / 'a.pth')
    assert torch.serialization.get_safe_globals() == before


class Payload:
    """A pickle that calls `function` when it is read without care."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
@pytest.mark.parametrize('function', [os.system, eval, exec, pathlib.Path.touch, __import__], ids=lambda f: f.__name__)
def test_code_in_files_is_refused_and_not_run(tmp_path, function, zipped):
    marker = tmp_path / 'ran'
    statement = f'open({str(marker)!r}, "w")'
    arguments = {
        os.system: (f'touch {marker}',),
        pathlib.Path.touch: (marker,),
        __import__: ('antigravity',),
    }.get(function, (statement,))
    path = tmp_path / 'bad.pth'
    for content in (
        {'model': weights(), 'args': Payload(function, *arguments)},
        {'model': weights(), 'args': argparse.Namespace(inner=Payload(function, *arguments))},
        Payload(function, *arguments),
    ):
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(ValueError, match=r'bad\.pth.*cannot be read safely'):
            read_file(path)
        assert not marker.exists()


def test_stand_ins_call_nothing(tmp_path):
    """`getattr` and friends cannot be reached through a name that has a stand-in."""
    path = tmp_path / 'bad.pth'
    body = b'\x80\x02cpathlib\nPosixPath\nX\x04\x00\x00\x00evil\x85Rcbuiltins\ngetattr\n.'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('archive/data.pkl', body)
        archive.writestr('archive/version', '3\n')
        archive.writestr('archive/byteorder', 'little')
    with pytest.raises(ValueError, match=r'it asks for builtins\.getattr'):
        read_file(path)


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
def test_foreign_objects_are_named(tmp_path, zipped):
    content = {'model': weights(), 'when': datetime.date(2024, 1, 1)}
    torch.save(content, tmp_path / 'a.pth', _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r'a\.pth: .*it asks for datetime\.date; save its weights alone'):
        read_file(tmp_path / 'a.pth')


@pytest.mark.parametrize('ending', ['pth', 'safetensors'])
def test_truncated_files_are_refused_by_name(tmp_path, ending):
    path = tmp_path / f'model.{ending}'
    state = {'weight': torch.zeros(1000)}
    save_file(state, path) if ending == 'safetensors' else torch.save(state, path)
    whole = path.read_bytes()
    for length in (10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf'model\.{ending}: .*cannot be read safely'):
            read_file(path)


@pytest.mark.parametrize(
    ('name', 'start', 'says'),
    [
        ('a.pth', b'<!DOCTYPE html><html>404</html>', 'a web page'),
        ('a.safetensors', b'<html>sign in</html>', 'a web page'),
        ('a.pt', b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n', 'Git LFS pointer'),
        ('a.safetensors', b'version https://git-lfs.github.com/spec/v1\noid', 'Git LFS pointer'),
        ('a.safetensors', b'some notes on the weights\n', 'a text file'),
        ('a.pth', b'some notes on the weights\n', 'a text file'),
        ('a.pth', b'', 'the file is empty'),
        ('a.safetensors', b'', 'the file is empty'),
    ],
)
def test_other_files_are_refused_and_recognised(tmp_path, name, start, says):
    path = tmp_path / name
    path.write_bytes(start)
    with pytest.raises(ValueError, match=says) as error:
        read_file(path)
    assert str(path) in str(error.value)


def test_wrong_endings_are_explained(tmp_path):
    save_file(weights(), tmp_path / 'a.pth')
    torch.save(weights(), tmp_path / 'a.safetensors')
    with pytest.raises(ValueError, match=r'a \.safetensors file under another name'):
        read_file(tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='a PyTorch file under another name'):
        read_file(tmp_path / 'a.safetensors')


def test_plain_pickles_and_arrays_are_refused(tmp_path):
    path = tmp_path / 'a.pth'
    for protocol in (2, 4):
        path.write_bytes(pickle.dumps(argparse.Namespace(run=Payload(os.system, 'true')), protocol))
        with pytest.raises(ValueError, match='cannot be read safely'):
            read_file(path)
    np.savez(tmp_path / 'b.npz', a=np.zeros(2))
    with pytest.raises(ValueError, match='cannot be read safely'):
        read_file(tmp_path / 'b.npz')


def test_damaged_files_of_any_kind_give_one_kind_of_error(tmp_path):
    """Single bytes changed, lost or added; what still reads, reads."""
    random = np.random.default_rng(0)
    torch.save({'model': weights(), 'args': argparse.Namespace(a=1)}, tmp_path / 'a.pth')
    legacy = {'model': weights(), 'args': argparse.Namespace(a=1)}
    torch.save(legacy, tmp_path / 'b.pth', _use_new_zipfile_serialization=False)
    save_file(weights(), tmp_path / 'a.safetensors')
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        refused = 0
        for _ in range(60):
            place, byte = int(random.integers(len(whole))), bytes([random.integers(256)])
            head, tail = whole[:place], whole[place:]
            path.write_bytes(head + [byte + tail[1:], tail[1:], byte + tail][int(random.integers(3))])
            try:
                read_file(path)
            except ValueError as error:
                assert f'{path}: expected weights' in str(error)
                refused += 1
        assert refused > 10


def test_folders_and_absent_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match='is a folder; give the file in it'):
        read_file(tmp_path)
    with pytest.raises(ValueError, match='no such file'):
        read_file(tmp_path / 'absent.pth')


def test_files_in_parts_are_put_together(tmp_path):
    save_file({'weight': weights()['weight']}, tmp_path / 'model-1.safetensors')
    save_file({'bias': weights()['bias']}, tmp_path / 'model-2.safetensors')
    index = tmp_path / 'model.safetensors.index.json'
    names = {'weight': 'model-1.safetensors', 'bias': 'model-2.safetensors'}
    index.write_text(json.dumps({'metadata': {'total_size': 36}, 'weight_map': names}))
    assert_same(read_file(index), weights())

    index.write_text(json.dumps({'weight_map': names | {'bias': 'model-3.safetensors'}}))
    with pytest.raises(ValueError, match=r'1 of the files it names are not beside it: model-3\.safetensors'):
        read_file(index)
    index.write_text(json.dumps({'weight_map': {'surprise': 'model-1.safetensors'}}))
    with pytest.raises(ValueError, match="1 weights are not in the files it names for them, such as 'surprise'"):
        read_file(index)
    for text in ('{', '[]', '{"weight_map": 5}'):
        index.write_text(text)
        with pytest.raises(ValueError, match="expected JSON with 'weight_map'"):
            read_file(index)


def test_parts_of_an_index_are_read_from_its_own_folder(tmp_path):
    save_file(weights(), tmp_path / 'outside.safetensors')
    (tmp_path / 'inner').mkdir()
    index = tmp_path / 'inner' / 'model.safetensors.index.json'
    index.write_text(json.dumps({'weight_map': {'weight': '../outside.safetensors'}}))
    with pytest.raises(ValueError, match='not beside it'):
        read_file(index)


@pytest.mark.parametrize('level', ['model', 'state_dict'])
def test_weights_are_found_at_the_levels_of_trainers(tmp_path, level):
    content = {level: weights(), 'optimizer': {'state': {0: torch.zeros(1)}}, 'epoch': 1, 'scaler': {}}
    assert_same(tensors_of(content, tmp_path), weights())
    with pytest.raises(ValueError, match=r'under .*weights.*found a dict with'):
        tensors_of(content, tmp_path, levels=('weights',))


def test_the_prefix_of_parallel_training_is_taken_off_only_where_all_have_it(tmp_path):
    wrapped = {f'module.{name}': value for name, value in weights().items()}
    assert_same(tensors_of({'model': wrapped}, tmp_path), weights())
    mixed = wrapped | {'other': torch.zeros(1)}
    assert_same(tensors_of(mixed, tmp_path), mixed)


def test_separate_parts_become_prefixes(tmp_path):
    content = {'args': LeftOut(), 'encoder': weights(0), 'decoder': weights(1)}
    expected = {f'encoder.{name}': value for name, value in weights(0).items()}
    expected |= {f'decoder.{name}': value for name, value in weights(1).items()}
    assert_same(tensors_of(content, tmp_path, parts=('encoder', 'decoder')), expected)
    assert_same(tensors_of(expected, tmp_path, parts=('encoder', 'decoder')), expected)
    with pytest.raises(
        ValueError, match=r"in the parts \['encoder', 'head'\], found a dict with args, decoder, encoder"
    ):
        tensors_of(content, tmp_path, parts=('encoder', 'head'))


def test_longest_prefix_renames():
    state = {name: torch.zeros(1) for name in ('a.b.w', 'a.c.w', 'ab', 'other')}
    renamed = rename(state, {'a.': 'x.', 'a.b.': 'y.z.'})
    assert set(renamed) == {'y.z.w', 'x.c.w', 'ab', 'other'}
    assert all(renamed[new] is state[old] for old, new in {'a.b.w': 'y.z.w', 'ab': 'ab'}.items())
    with pytest.raises(ValueError, match="two tensors would be called 'other'"):
        rename(state, {'ab': 'other'})


def test_differences_are_none_only_for_equal_names_and_shapes():
    state = weights()
    assert differences(state, weights(1)) == []
    assert differences(state, {}) == ['1 missing in bias: bias', '1 missing in weight: weight']
    assert differences(state, state | {'bias': torch.zeros(4)}) == [
        '1 of another shape in bias: bias',
        'bias: expected (3,), found (4,)',
    ]


def test_values_that_are_not_finite_are_refused_by_name(tmp_path):
    layer = torch.nn.Linear(2, 3)
    before = layer.weight.clone()
    for value in (float('nan'), float('inf')):
        state = weights()
        state['bias'][1] = value
        with pytest.raises(ValueError, match='1 weights have NaN or infinite values: bias'):
            load_strictly(layer, state, tmp_path)
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted(tmp_path, dtype):
    layer = torch.nn.Linear(2, 3)
    state = {name: value.to(dtype) for name, value in weights().items()}
    save_file(state, tmp_path / 'a.safetensors')
    load_strictly(layer, read_file(tmp_path / 'a.safetensors'), tmp_path)
    assert layer.weight.dtype == torch.float32
    assert torch.equal(layer.weight, state['weight'].float())
