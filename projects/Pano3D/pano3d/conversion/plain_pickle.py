"""Pickle files that hold nothing but plain containers, numbers, text and arrays; nothing in them is ever run.

Unpickling calls what the file names, and some of its instructions allocate what the file asks for. So the instructions
are looked through first, and the few callables that arrays need are replaced by records, from which the arrays are made
after their sizes have been compared with the bytes that are there.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from mmengine.fileio import get

MAX_DEPTH = 32
NDARRAY = 'numpy.ndarray'

_REFUSED = {'PERSID', 'BINPERSID', 'EXT1', 'EXT2', 'EXT4', 'INST', 'OBJ', 'NEXT_BUFFER', 'READONLY_BUFFER'}
_MEMO = {'PUT', 'BINPUT', 'LONG_BINPUT'}
_DTYPE = re.compile(r'[?bBhHiIlLqQefd]|[biuf]\d{1,2}|[US]\d{1,6}')
_ERRORS = (
    pickle.UnpicklingError, AttributeError, EOFError, ImportError, IndexError, KeyError, MemoryError, OverflowError,
    RecursionError, TypeError, UnicodeDecodeError, ValueError,
)  # fmt: skip


def read_plain_pickle(path: str, *, backend_args: dict[str, Any] | None = None) -> Any:
    """The content of a pickle file: dict, list, tuple, set, str, bytes, numbers, bool, None and numpy arrays of these.

    Args:
        path: the file; may be remote.
        backend_args: of mmengine's file backend.

    Raises:
        ValueError: if it needs anything else, whose name the message has, or is damaged.
    """
    data = get(path, backend_args=backend_args)
    try:
        _check_instructions(data)
        return _resolved(_PlainUnpickler(io.BytesIO(data)).load(), {}, 0)
    except _ERRORS as error:
        raise ValueError(f'{path}: not a pickle of plain data and arrays ({error})') from error


@dataclass
class _Type:
    """Stands for a numpy dtype until its state is known."""

    code: str
    order: str = '='

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, *structure = state
        if order not in ('<', '>', '|', '=') or any(entry is not None for entry in structure[:3]):
            raise ValueError(f'an array of a structured type, {self.code!r}')
        self.order = order

    def made(self) -> np.dtype[Any]:
        return np.dtype(self.code).newbyteorder(self.order)  # type: ignore[arg-type]


@dataclass
class _Array:
    """Stands for an array until its state is known."""

    shape: tuple[int, ...] = ()
    dtype: _Type | None = None
    columns_first: bool = False
    data: bytes = b''

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.dtype, self.columns_first, self.data = state

    def made(self) -> np.ndarray:
        if not isinstance(self.dtype, _Type) or not isinstance(self.data, bytes | bytearray):
            raise ValueError('an array of objects')
        order = 'F' if self.columns_first else 'C'
        if not self.data and 0 in self.shape:
            return np.zeros(self.shape, self.dtype.made())
        # frombuffer reads no more than there is; the copy can be written to
        return np.frombuffer(self.data, self.dtype.made()).reshape(self.shape, order=order).copy(order=order)


@dataclass
class _Scalar:
    dtype: _Type
    data: bytes

    def made(self) -> Any:
        return np.frombuffer(self.data, self.dtype.made()).reshape(()).item()


def _reconstruct(kind: str, shape: tuple[int, ...], _: Any) -> _Array:
    if kind != NDARRAY or tuple(shape) != (0,):
        raise ValueError(f'an array made of {kind} and {shape}')
    return _Array()


def _from_buffer(data: bytes, dtype: _Type, shape: tuple[int, ...], order: str) -> _Array:
    return _Array(tuple(shape), dtype, order == 'F', data)


def _make_type(code: str, *_: Any) -> _Type:
    if not isinstance(code, str) or not _DTYPE.fullmatch(code):
        raise ValueError(f'an array of type {code!r}')
    return _Type(code)


def _encode(text: str, encoding: str) -> bytes:
    if encoding != 'latin1':
        raise ValueError(f'bytes as {encoding!r}')
    return text.encode('latin-1')


def _no_bytes() -> bytes:
    return b''


_CALLABLES: dict[tuple[str, str], Callable[..., Any]] = {
    ('numpy', 'dtype'): _make_type,
    ('_codecs', 'encode'): _encode,
    ('collections', 'OrderedDict'): OrderedDict,
    **{
        (module, name): function
        for module in ('builtins', '__builtin__')
        for name, function in (('bytes', _no_bytes), ('set', set), ('frozenset', frozenset))
    },
    **{
        (f'numpy.{core}.{module}', name): function
        for core in ('core', '_core')
        for module, name, function in (
            ('multiarray', '_reconstruct', _reconstruct),
            ('multiarray', 'scalar', _Scalar),
            ('numeric', '_frombuffer', _from_buffer),
        )
    },
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if f'{module}.{name}' == NDARRAY:
            return NDARRAY
        if (module, name) not in _CALLABLES:
            raise pickle.UnpicklingError(f'it needs {module}.{name}, which is not allowed')
        return partial(_CALLABLES[module, name])  # a new object each time, as the file may set attributes of it


def _check_instructions(data: bytes) -> None:
    """Refuse instructions that plain data does not have, and memo numbers that would allocate more than the file."""
    for instruction, argument, position in pickletools.genops(data):
        if instruction.name in _REFUSED:
            raise ValueError(f'instruction {instruction.name} at byte {position} is not allowed')
        if instruction.name in _MEMO and int(argument) > len(data):
            raise ValueError(f'instruction {instruction.name} at byte {position} numbers {argument} objects')


def _resolved(value: Any, done: dict[int, Any], depth: int) -> Any:
    """The value with arrays in place of what stands for them; shared parts are visited once."""
    if value is None or type(value) in (bool, int, float, complex, str, bytes, bytearray):
        return value
    if depth > MAX_DEPTH:
        raise ValueError(f'nested deeper than {MAX_DEPTH}')
    if id(value) in done:
        return done[id(value)]
    result: Any
    if isinstance(value, _Array | _Scalar):
        result = value.made()
    elif isinstance(value, dict):
        result = {_resolved(k, done, depth + 1): _resolved(v, done, depth + 1) for k, v in value.items()}
    elif type(value) in (list, tuple, set, frozenset):
        result = type(value)(_resolved(entry, done, depth + 1) for entry in value)
    else:
        raise ValueError(f'an object of type {type(value).__name__}')
    done[id(value)] = result
    return result
