"""Which classes there are, which of them are stuff, and how raw annotation maps to them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
        source_ids: per class, the id in the raw annotation that means it; None for classes that the annotation does not
            distinguish.
        source_key: which id of an instance record `source_ids` refers to, e.g. 'nyu40_id' or 'scannet_id'.
        stuff: names of the classes that have no countable instances.
    """

    name: str
    names: tuple[str, ...]
    source_ids: tuple[int | None, ...]
    source_key: str
    stuff: frozenset[str]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.source_ids):
            raise ValueError(f'label space {self.name!r}: {len(self.names)} names but {len(self.source_ids)} ids')
        ids = tuple(number for number in self.source_ids if number is not None)
        for what, values in (('names', self.names), ('source_ids', ids)):
            if len(set(values)) != len(values):
                raise ValueError(f'label space {self.name!r}: `{what}` repeats an entry')
        unknown = self.stuff - set(self.names)
        if unknown:
            raise ValueError(f'label space {self.name!r}: stuff classes {sorted(unknown)} are not among its names')

    @classmethod
    def load(cls, name_or_path: str) -> LabelSpace:
        """A label space of the package by name (e.g. 'scannet20'), or any JSON file of the same layout.

        Several of them joined by `+` (e.g. 'scannet20+scannetpp100') mean their `union`.

        Raises:
            ValueError: if there is no such label space, or the file lacks a key.
        """
        path = Path(name_or_path)
        if '+' in name_or_path and not path.is_file():
            return cls.union([cls.load(part) for part in name_or_path.split('+')])
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

    @classmethod
    def union(cls, spaces: Sequence[LabelSpace]) -> LabelSpace:
        """The classes of several label spaces; classes of one name are one class.

        A class is stuff if it is stuff in any of them, since instances can be merged but not invented. The union reads
        no annotation itself: an annotated label space becomes a part of it by `within`.

        >>> LabelSpace.load('scannet20+scannetpp100').num_classes
        105
        """
        names = tuple(dict.fromkeys(name for space in spaces for name in space.names))
        return cls(
            name='+'.join(space.name for space in spaces),
            names=names,
            source_ids=(None,) * len(names),
            source_key='',
            stuff=frozenset().union(*(space.stuff for space in spaces)),
        )

    def within(self, model: LabelSpace) -> LabelSpace:
        """The classes of `model`, read from the annotation of this label space; see `labelled_classes`.

        Classes of this label space that the model lacks become void.

        Raises:
            ValueError: if they have no class in common.
        """
        ids = dict(zip(self.names, self.source_ids, strict=True))
        shared = tuple(ids.get(name) for name in model.names)
        if all(number is None for number in shared):
            raise ValueError(f'label spaces {self.name!r} and {model.name!r} have no annotated class in common')
        return replace(model, source_ids=shared, source_key=self.source_key)

    @property
    def num_classes(self) -> int:
        return len(self.names)

    @property
    def is_stuff(self) -> Tensor:
        """(C,) bool."""
        return torch.tensor([name in self.stuff for name in self.names])

    @property
    def labelled_classes(self) -> tuple[int, ...]:
        """Category indices that the annotation distinguishes; all of them unless this is a part of a union."""
        return tuple(index for index, number in enumerate(self.source_ids) if number is not None)

    def category_of(self, instance: Mapping[str, object]) -> int:
        """Category index of an instance record, -1 if this label space does not have its class."""
        source = instance.get(self.source_key)
        return -1 if source is None or source not in self.source_ids else self.source_ids.index(source)

    def describe(self, categories: Sequence[int]) -> list[str]:
        """Names of category indices; -1 is 'void'."""
        return ['void' if c < 0 else self.names[c] for c in categories]
