"""Raw releases to the stored scene format (docs/scene_format.md)."""

from .sens import SensFrame, SensHeader, SensReader, SensWriter

__all__ = ['SensFrame', 'SensHeader', 'SensReader', 'SensWriter']
