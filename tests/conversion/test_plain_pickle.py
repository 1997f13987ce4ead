"""Oracles: what pickle itself reads from good files, and files that would do harm."""

import io
import os
import pickle
import struct
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pano3d.conversion.plain_pickle import read_plain_pickle

ARRAYS = {
    'matrix': np.arange(12.0).reshape(3, 4),
    'columns': np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
    'big endian': np.arange(3, dtype='>f4'),
    'names': np.array(['chair', 'wall']),
    'empty': np.zeros((0, 6)),
    'point': np.array(3.5, np.float32),
    'flags': np.array([True, False]),
}
CONTENT = {
    'metainfo': OrderedDict(version='1.1', factor=2.5),
    'data_list': [
        {'scene': 'scene0000_00', 'gt_num': np.int64(7), 'annos': ARRAYS, 'none': None, 'bytes': b'\xff\x00'}
    ],
    'nested': ((1, 2), [True], {3}),
}


def write(path, data):
    path.write_bytes(data)
    return str(path)


def same(one, two):
    if isinstance(two, np.ndarray):
        return isinstance(one, np.ndarray) and one.dtype == two.dtype and np.array_equal(one, two)
    if isinstance(two, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in two)
    if isinstance(two, list | tuple):
        return type(one) is type(two) and all(same(a, b) for a, b in zip(one, two, strict=True))
    return one == two


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_plain_data_comes_back_as_it_was(tmp_path, protocol):
    found = read_plain_pickle(write(tmp_path / 'infos.pkl', pickle.dumps(CONTENT, protocol)))
    assert same(found, CONTENT)
    found['data_list'][0]['annos']['matrix'][0, 0] = 5  # arrays can be changed


def test_names_of_older_numpy_are_known(tmp_path):
    data = pickle.dumps(ARRAYS, 2)
    other = data.replace(b'numpy._core.', b'numpy.core.')
    if other == data:
        other = data.replace(b'numpy.core.', b'numpy._core.')
    assert same(read_plain_pickle(write(tmp_path / 'infos.pkl', other)), ARRAYS)


def global_of(module, name):
    return f'c{module}\n{name}\n'.encode()


def reconstructed(shape, state):
    """The instructions of an array with any shape and state."""
    head = global_of('numpy.core.multiarray', '_reconstruct') + global_of('numpy', 'ndarray')
    return b'\x80\x02' + head + pickle.dumps(shape, 2)[2:-1] + b'U\x01b\x87R' + state + b'b.'


class Harm:
    def __reduce__(self):
        return os.system, ('touch harm_was_done',)


F8 = global_of('numpy', 'dtype') + b'U\x02f8\x89\x88\x87R'
HOSTILE = {
    'a command': (pickle.dumps([Harm()], 2), r'posix.system, which is not allowed'),
    'eval': (b'c__builtin__\neval\n(U\x011tR.', r'builtin.*eval, which is not allowed'),
    'an attribute of numpy': (global_of('numpy', 'fromfile') + b'.', r'numpy\.fromfile, which is not allowed'),
    'a dotted name': (pickle.dumps(np.random.default_rng, 4), 'which is not allowed'),
    'an object of a class': (pickle.dumps(io.StringIO('a'), 4), r'_io\.StringIO, which is not allowed'),
    'an array of objects': (pickle.dumps(np.array([{}, None], object), 2), "an array of type 'O8'"),
    'a structured array': (pickle.dumps(np.zeros(2, 'i4,f4'), 2), "an array of type 'V8'"),
    'a shape beyond the data': (
        reconstructed((0,), b'(K\x01' + pickle.dumps((2**40,), 2)[2:-1] + F8 + b'\x89C\x08abcdefght'),
        'cannot reshape',
    ),
    'a shape in the call': (reconstructed((2**40,), b'N'), r'an array made of numpy\.ndarray'),
    'a memo of gigabytes': (b'\x80\x02Nr' + struct.pack('<I', 2**31) + b'.', 'LONG_BINPUT at byte 3'),
    'text longer than the file': (b'\x80\x04\x8d' + struct.pack('<Q', 2**40) + b'a.', 'not a pickle'),
    'bytes longer than the file': (b'\x80\x05\x96' + struct.pack('<Q', 2**40) + b'a.', 'not a pickle'),
    'a persistent object': (b'Pabc\n.', 'PERSID'),
    'an instance': (b'(i__main__\nA\n.', 'INST'),
    'nesting': (b'\x80\x02' + b']' * 5000 + b'a' * 4999 + b'.', 'nested deeper'),
    'a list in itself': (b'\x80\x02]q\x00h\x00a.', 'nested deeper'),
    'compression': (global_of('_codecs', 'encode') + b'(U\x01aU\x04zliptR.', "bytes as 'zlip'"),
    'nothing': (b'', 'not a pickle'),
    'text': (b'scene0000_00\n', 'not a pickle'),
}


@pytest.mark.parametrize('name', HOSTILE)
def test_anything_else_is_refused_by_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    data, message = HOSTILE[name]
    with pytest.raises(ValueError, match=message) as caught:
        read_plain_pickle(write(tmp_path / 'infos.pkl', data))
    assert 'infos.pkl' in str(caught.value)
    assert not (tmp_path / 'harm_was_done').exists()


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    position=st.integers(0, 2000),
    byte=st.integers(0, 255),
    length=st.integers(1, 2500),
    protocol=st.sampled_from([2, 5]),
)
def test_damaged_files_are_one_error(tmp_path, position, byte, length, protocol):
    data = bytearray(pickle.dumps(CONTENT, protocol)[:length])
    data[position % len(data)] = byte
    try:
        read_plain_pickle(write(tmp_path / 'infos.pkl', bytes(data)))
    except ValueError as error:
        assert 'infos.pkl' in str(error)
