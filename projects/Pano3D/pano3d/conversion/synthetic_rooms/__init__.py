"""Made-up furnished rooms, written as a ScanNet v2 download: for demonstrations and tests without any data set."""

from .generation import scene_name, write_room, write_rooms
from .rendering import Recording, RecordingOptions
from .room import Room, build_room

__all__ = [
    'Recording',
    'RecordingOptions',
    'Room',
    'build_room',
    'scene_name',
    'write_room',
    'write_rooms',
]
