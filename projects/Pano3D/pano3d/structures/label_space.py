"""Which classes there are, which of them are stuff, and how raw annotation maps to them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

LABEL_SPACE_FOLDER = Path(__file__).parent.parent / 'datasets' / 'label_spaces'


@dataclass(frozen=True)
class LabelSpace:
    """The classes a model or an evaluation speaks of.

    Args:
        name: e.g. 'scannet20'; the first part of every metric key.
        names: class names; the position is the category index.
        source_ids: per class, the ids in the raw annotation that mean it.
        source_key: which id of an instance record `source_ids` refers to, e.g. 'nyu40_id' or 'scannet_id'.
        stuff: names of the classes that have no countable instances.
    """

    name: str
    names: tuple[str, ...]
    source_ids: tuple[int, ...]
    source_key: str
    stuff: frozenset[str]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.source_ids):
            raise ValueError(f'label space {self.name!r}: {len(self.names)} names but {len(self.source_ids)} ids')
        for what, values in (('names', self.names), ('source_ids', self.source_ids)):
            if len(set(values)) != len(values):
                raise ValueError(f'label space {self.name!r}: `{what}` repeats an entry')
        unknown = self.stuff - set(self.names)
        if unknown:
            raise ValueError(f'label space {self.name!r}: stuff classes {sorted(unknown)} are not among its names')

    @classmethod
    def load(cls, name_or_path: str) -> LabelSpace:
        """A label space of the package by name (e.g. 'scannet20'), or any JSON file of the same layout.

        Raises:
            ValueError: if there is no such label space, or the file lacks a key.
        """
        path = Path(name_or_path)
        if path.suffix != '.json':
            path = LABEL_SPACE_FOLDER / f'{name_or_path}.json'
        if not path.is_file():
            known = sorted(p.stem for p in LABEL_SPACE_FOLDER.glob('*.json'))
            raise ValueError(f'no label space {name_or_path!r}: expected one of {known} or a path to a .json file')
        try:
            record = json.loads(path.read_text())
            return cls(
                name=record['name'],
                names=tuple(c['name'] for c in record['classes']),
                source_ids=tuple(int(c['id']) for c in record['classes']),
                source_key=record['source_key'],
                stuff=frozenset(c['name'] for c in record['classes'] if c['stuff']),
            )
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(
                f'{path}: a label space needs name, source_key and classes [{{name, id, stuff}}]; found {error!r}'
            ) from error

    @property
    def num_classes(self) -> int:
        return len(self.names)

    @property
    def is_stuff(self) -> Tensor:
        """(C,) bool."""
        return torch.tensor([name in self.stuff for name in self.names])

    def category_of(self, instance: Mapping[str, object]) -> int:
        """Category index of an instance record, -1 if this label space does not have its class."""
        source = instance.get(self.source_key)
        return self.source_ids.index(source) if source in self.source_ids else -1

    def describe(self, categories: Sequence[int]) -> list[str]:
        """Names of category indices; -1 is 'void'."""
        return ['void' if c < 0 else self.names[c] for c in categories]
