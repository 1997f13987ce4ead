"""Made-up furnished rooms, written as a ScanNet v2 download: for demonstrations and tests without any data set."""

from .generation import make_synthetic_scannet, scene_name, write_room
from .rendering import Recording, RecordingOptions
from .room import Room, build_room

__all__ = [
    'Recording',
    'RecordingOptions',
    'Room',
    'build_room',
    'make_synthetic_scannet',
    'scene_name',
    'write_room',
]
