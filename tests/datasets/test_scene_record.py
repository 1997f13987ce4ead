"""Oracle: what the test has written, or has broken."""

import json

import numpy as np
import pytest

from pano3d.datasets import read_scene


def test_reads_what_was_written(data_root):
    folder = data_root / 'scenes' / 'scene0001_00'
    written = json.loads((folder / 'scene.json').read_text())
    scene = read_scene(str(folder))
    assert (scene.scene_id, scene.source, scene.depth_scale) == ('scene0001_00', 'scannet_v2', 0.001)
    assert [frame.id for frame in scene.frames] == [f'{20 * i:06d}' for i in range(9)]
    assert list(scene.instances) == written['instances']
    assert scene.mesh == str(folder / 'mesh.npz')
    frame = scene.frames[3]
    assert frame.color == str(folder / 'color/000060.jpg')
    assert (frame.color_size, frame.depth_size) == ((64, 48), (40, 32))
    for key in ('color_intrinsics', 'depth_intrinsics', 'camera_to_world'):
        np.testing.assert_array_equal(getattr(frame, key), written['frames'][3][key])


def remove(*keys):
    def change(record):
        for key in keys[:-1]:
            record = record[key]
        del record[keys[-1]]

    return change


def put(value, *keys):
    def change(record):
        for key in keys[:-1]:
            record = record[key]
        record[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (put('other', 'format'), "expected format 'pano3d-scene' version 1, found 'other' version 1"),
        (put(2, 'version'), "expected format 'pano3d-scene' version 1, found 'pano3d-scene' version 2"),
        (remove('depth_scale'), "key 'depth_scale' is missing"),
        (put(0, 'depth_scale'), '`depth_scale` must be a positive number, found 0'),
        (put({}, 'frames'), '`frames` must be of type list, found {}'),
        (remove('frames', 2, 'depth'), "frame 000040: key 'depth' is missing"),
        (put(None, 'frames', 2, 'color'), 'frame 000040: `color` must be of type str, found None'),
        (put([64], 'frames', 0, 'color_size'), r'frame 000000: `color_size` must be \[width, height\]'),
        (put([[1, 0], [0, 1]], 'frames', 1, 'camera_to_world'), 'frame 000020: `camera_to_world` must be a finite 4x4'),
        (put(-np.inf, 'frames', 1, 'camera_to_world', 0, 3), 'frame 000020: `camera_to_world` must be a finite 4x4'),
        (put(0.5, 'frames', 1, 'camera_to_world', 3, 0), 'frame 000020: the last row of `camera_to_world` must be'),
        (put(0.1, 'frames', 1, 'depth_intrinsics', 0, 1), '`depth_intrinsics` must have positive focal lengths and no'),
        (put(-5.0, 'frames', 1, 'color_intrinsics', 1, 1), '`color_intrinsics` must have positive focal lengths'),
        (put(1, 'instances', 1, 'id'), r'instance ids must be positive and different from each other, found \[1, 1'),
        (put(0, 'instances', 1, 'id'), r'instance ids must be positive'),
    ],
)
def test_damage_is_named(make_dataset, change, message):
    folder = make_dataset({'a': 3}) / 'scenes' / 'a'
    record = json.loads((folder / 'scene.json').read_text())
    change(record)
    (folder / 'scene.json').write_text(json.dumps(record))
    with pytest.raises(ValueError, match=message) as caught:
        read_scene(str(folder))
    assert str(caught.value).startswith(f'{folder}/scene.json: ')
    assert 'tools/prepare_scannet.py' in str(caught.value)


@pytest.mark.parametrize(
    ('content', 'message'),
    [(b'{"format": ', 'expected a JSON file'), (b'\xff\x00', 'expected a JSON file'), (b'[]', 'found list')],
)
def test_not_json(make_dataset, content, message):
    folder = make_dataset({'a': 3}) / 'scenes' / 'a'
    (folder / 'scene.json').write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_scene(str(folder))


def test_missing_scene(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'nowhere/scene.json: cannot be read .*tools/prepare_scannet.py'):
        read_scene(str(tmp_path / 'nowhere'))
