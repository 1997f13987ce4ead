"""Reading weight files without running what is in them."""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

INDEX_ENDING = '.safetensors.index.json'

LEFT_OUT = (
    'argparse.Namespace',
    'builtins.bool',
    'builtins.dict',
    'builtins.float',
    'builtins.int',
    'builtins.list',
    'builtins.str',
    'builtins.tuple',
    'numpy._core.multiarray._reconstruct',
    'numpy._core.multiarray.scalar',
    'numpy.core.multiarray._reconstruct',
    'numpy.core.multiarray.scalar',
    'numpy.dtype',
    'numpy.ndarray',
    'omegaconf.base.ContainerMetadata',
    'omegaconf.base.Metadata',
    'omegaconf.dictconfig.DictConfig',
    'omegaconf.listconfig.ListConfig',
    'omegaconf.nodes.AnyNode',
    'pathlib.Path',
    'pathlib.PosixPath',
    'pathlib.PurePosixPath',
    'pathlib.WindowsPath',
    'types.SimpleNamespace',
    'typing.Any',
)
"""What trainers pickle beside their weights. An empty stand-in is made instead; none of these is imported or called."""


DEFAULT_DICT = 'collections.defaultdict'


def _plain_dict(*_factory: object) -> dict:
    """In place of a `defaultdict`, whose entries the safe reader can put into plain dicts only."""
    return {}


class LeftOut:
    """Stands for an object of a training script; what it was made from is dropped."""

    def __new__(cls, *_arguments: object) -> LeftOut:
        return super().__new__(cls)

    def __init__(self, *_arguments: object) -> None:
        """Takes what the original would have been made from."""

    def __setstate__(self, state: object) -> None:
        """Takes the state of the original."""

    def __hash__(self) -> int:
        return id(self)


def _latin1(text: str, _encoding: str) -> bytes:
    """In place of `_codecs.encode`, which pickles of old protocols call to make the bytes of an array."""
    return text.encode('latin1')


ARRAY_PARTS: dict[str, Any] = {
    'collections.OrderedDict': OrderedDict,
    '_codecs.encode': _latin1,
    'numpy.ndarray': np.ndarray,
    'numpy.dtype': np.dtype,
    'numpy.core.multiarray._reconstruct': np.zeros(0).__reduce__()[0],
    'numpy._core.multiarray._reconstruct': np.zeros(0).__reduce__()[0],
}
"""All that may be made while a pickle of arrays is read."""


class _ArrayUnpickler(pickle.Unpickler):
    """Reads dicts, lists, numbers, strings and numpy arrays; whatever else a pickle asks for is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if f'{module}.{name}' not in ARRAY_PARTS:
            raise pickle.UnpicklingError(f'Unsupported global: GLOBAL {module}.{name}')
        return ARRAY_PARTS[f'{module}.{name}']


def read_file(path: Path) -> object:
    """The content of a .safetensors file, of the index of one in several parts, of a PyTorch file, or of a .pkl file.

    A .pkl file is a pickle of numpy arrays, as detectron2 publishes its networks; they become tensors.

    Tensors are mapped from disk where the format allows it: all but PyTorch files from before version 1.6 take no
    memory until their values are read. In PyTorch files, objects of the kinds in `LEFT_OUT` become `LeftOut`.

    Raises:
        ValueError: if the file is none of these, is incomplete, or asks for any other kind of object; it names them.
    """
    if not path.is_file():
        what = 'is a folder; give the file in it' if path.is_dir() else 'no such file'
        raise ValueError(f'{path}: {what}')
    if path.name.endswith(INDEX_ENDING):
        return _read_parts(path)
    try:
        return READERS.get(path.suffix, _read_pytorch)(path)
    except Exception as error:  # damaged bytes make the readers raise almost anything
        reason = _what_it_is(path) or _foreign_objects(path, error) or _first_line(error)
        raise ValueError(
            f'{path}: expected weights as .safetensors, as a PyTorch file of tensors or as a .pkl file of arrays, '
            f'found something that cannot be read safely: {reason}'
        ) from error


def _read_pytorch(path: Path) -> object:
    stand_ins: list[Any] = [(LeftOut, name) for name in LEFT_OUT]
    stand_ins.append((_plain_dict, DEFAULT_DICT))
    with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of the pickle's protocol, and of storage classes of old files
        return torch.load(path, map_location='cpu', weights_only=True, mmap=zipfile.is_zipfile(path))


def _read_arrays(path: Path) -> object:
    with path.open('rb') as file:
        return _as_tensors(_ArrayUnpickler(file, encoding='latin1').load())


def _as_tensors(content: object) -> object:
    if isinstance(content, Mapping):
        return {name: _as_tensors(value) for name, value in content.items()}
    return torch.from_numpy(content.copy()) if isinstance(content, np.ndarray) else content


READERS: dict[str, Callable[[Path], object]] = {'.safetensors': load_file, '.pkl': _read_arrays}
"""By ending; PyTorch files have any other."""


def _read_parts(index: Path) -> dict[str, Tensor]:
    """The tensors that an index spreads over .safetensors files of the same folder.

    Raises:
        ValueError: if it is no such index, or a part or a weight is missing.
    """
    try:
        parts = json.loads(index.read_text())['weight_map']
        files = {name: index.parent / f'{Path(part).stem}.safetensors' for name, part in parts.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index}: expected JSON with 'weight_map' {{name: file}}, found something else") from error
    absent = sorted({file.name for file in files.values() if not file.is_file()})
    if absent:
        raise ValueError(f'{index}: {len(absent)} of the files it names are not beside it: {", ".join(absent)}')
    contents: dict[Path, Any] = {file: read_file(file) for file in sorted(set(files.values()))}
    lost = sorted(name for name, file in files.items() if name not in contents[file])
    if lost:
        raise ValueError(f'{index}: {len(lost)} weights are not in the files it names for them, such as {lost[0]!r}')
    return {name: contents[file][name] for name, file in files.items()}


def _what_it_is(path: Path) -> str | None:
    """Names the usual things that are saved instead of weights."""
    with path.open('rb') as file:
        start = file.read(256).lstrip().lower()
    if not start:
        return 'the file is empty'
    if start.startswith(b'version https://git-lfs'):
        return 'a Git LFS pointer in place of the file; fetch it with `git lfs pull`, or download it'
    if start.startswith((b'<!doctype html', b'<html', b'<?xml')):
        return 'a web page in place of the file; download it again, signed in if its owner asks for that'
    if start.isascii() and start.decode().replace('\n', ' ').replace('\t', ' ').isprintable():
        return 'a text file'
    if path.suffix != '.safetensors' and start[8:10] == b'{"':
        return 'a .safetensors file under another name; rename it'
    if path.suffix == '.safetensors' and start.startswith(b'pk\x03\x04'):
        return 'a PyTorch file under another name; rename it to .pth'
    return None


def _foreign_objects(path: Path, error: Exception) -> str | None:
    """The kinds of objects that a PyTorch file asks for and that are not made."""
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # files of old PyTorch versions, or damaged ones
        named = re.findall(r'Unsupported global: GLOBAL (\S+)', str(error))
    foreign = sorted(set(named) - {*LEFT_OUT, DEFAULT_DICT})
    return f'it asks for {", ".join(foreign)}; save its weights alone' if foreign else None


def _first_line(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # PyTorch's words go on to recommend the unsafe way
        return 'the pickle in it is incomplete or uses more than weights need'
    line = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f'{line}; the file may be incomplete'


def left_out(content: object) -> int:
    """How many top-level entries of a file hold stand-ins somewhere."""
    return sum(map(_holds_stand_in, content.values())) if isinstance(content, Mapping) else 0


def _holds_stand_in(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_stand_in, value.values()))
    if isinstance(value, list | tuple | set):
        return any(map(_holds_stand_in, value))
    return isinstance(value, LeftOut)
