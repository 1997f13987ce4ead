"""Crowded rooms: many objects, many of them equal and side by side, and views that show them."""

import json
from functools import cache

import numpy as np
import pytest

from pano3d.conversion.synthetic_rooms import Recording, RecordingOptions, Room, build_room, write_rooms
from pano3d.conversion.synthetic_rooms.categories import RAW_CATEGORIES, SHELL
from pano3d.conversion.synthetic_rooms.crowded_rooms import CROWDED_TYPES
from pano3d.conversion.synthetic_rooms.footprints import overlap
from pano3d.structures import LabelSpace

ROOMS = 24
SMALL = RecordingOptions(num_frames=3, color_size=(32, 24), depth_size=(32, 24), spacing=0.5)


@cache
def room(index: int) -> Room:
    return build_room(0, index, spacing=2.0, crowded=True)


def objects(one: Room) -> list[str]:
    return [name for name in one.categories if name not in SHELL]


def test_every_room_has_20_to_60_objects_and_every_kind_occurs():
    counts = [len(objects(room(index))) for index in range(ROOMS)]
    assert min(counts) >= 20 and max(counts) <= 60
    assert max(counts) > 30
    assert {room(index).kind.name for index in range(ROOMS)} == {kind.name for kind in CROWDED_TYPES}


def test_every_object_is_a_thing_of_scannet20():
    space = LabelSpace.load('scannet20')
    things = {number for number, stuff in zip(space.source_ids, space.is_stuff, strict=True) if not stuff}
    for index in range(ROOMS):
        assert {RAW_CATEGORIES[name].nyu40_id for name in objects(room(index))} <= things


def test_nothing_stands_in_anything_and_most_things_have_an_equal_neighbour():
    shares = []
    for index in range(ROOMS):
        boxes = np.stack([item.box for item in room(index).items])
        assert not np.triu(overlap(boxes, boxes), 1).any()
        names = np.array([item.furniture.categories[0] for item in room(index).items])
        near = overlap(boxes, boxes, gap=0.45) & (names[:, None] == names)
        shares.append((near.sum(1) > 1).mean())
    assert np.mean(shares) > 0.6


def test_a_room_is_the_same_every_time_and_not_the_ordinary_one():
    again = build_room(0, 3, spacing=2.0, crowded=True)
    np.testing.assert_array_equal(again.mesh.vertices, room(3).mesh.vertices)
    assert again.categories == room(3).categories
    assert build_room(0, 3, spacing=2.0).categories != room(3).categories


def test_views_show_many_objects():
    """At least 0.2 % of the pixels of a view each."""
    options = RecordingOptions(num_frames=8, color_size=(80, 60), depth_size=(80, 60), spacing=2.0)
    per_view, per_room = [], []
    for index in range(4):
        names = np.array([*room(index).categories, 'void'])
        seen = []
        for view in Recording(room(index), seed=0, index=index, options=options).views():
            numbers, pixels = np.unique(view.objects, return_counts=True)
            large = pixels >= 0.002 * view.objects.size
            seen.append({n for n in numbers[large] if names[n] not in (*SHELL, 'void')})
        per_view += [len(numbers) for numbers in seen]
        per_room.append(len(set.union(*seen)))
    assert np.mean(per_view) > 8
    assert np.mean(per_room) > 12


def test_a_folder_holds_one_kind_of_rooms(tmp_path):
    write_rooms(tmp_path / 'crowded', train=1, val=0, options=SMALL, crowded=True, show_progress=False)
    groups = json.loads(next((tmp_path / 'crowded').rglob('*.aggregation.json')).read_text())['segGroups']
    assert sum(group['label'] not in SHELL for group in groups) == len(objects(room(0)))
    with pytest.raises(ValueError, match=r"other settings.*'crowded': True"):
        write_rooms(tmp_path / 'crowded', train=1, val=0, options=SMALL, show_progress=False)
