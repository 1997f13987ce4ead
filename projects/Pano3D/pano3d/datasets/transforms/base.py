"""The contract of a transform."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class Transform(ABC):
    """A step of a pipeline: a callable from a dict to a new dict; the given one stays as it is."""

    @abstractmethod
    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """The new dict."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        return self.transform(results)

    def __repr__(self) -> str:
        parameters = ', '.join(f'{name}={value!r}' for name, value in vars(self).items())
        return f'{type(self).__name__}({parameters})'


def check_fraction(name: str, value: float) -> float:
    """Refuse what is not in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f'`{name}` must be between 0 and 1, got {value}')
    return value
