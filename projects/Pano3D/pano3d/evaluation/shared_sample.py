"""One scene as all metrics see it: its fields, and what several metrics derive from them, worked out once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

T = TypeVar('T')


class SharedSample(dict[str, Any]):
    """The fields and meta information of one sample, with a memory that lives as long as it does."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        super().__init__(fields)
        self.derived: dict[Hashable, Any] = {}


def derived(sample: Mapping[str, Any], name: Hashable, compute: Callable[[], T]) -> T:
    """`compute()`, once for each `name` of a `SharedSample`; other mappings remember nothing.

    The value is shared: nobody may change it.
    """
    if not isinstance(sample, SharedSample):
        return compute()
    if name not in sample.derived:
        sample.derived[name] = compute()
    return sample.derived[name]
