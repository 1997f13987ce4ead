"""Oracle: the room that was rendered into the files."""

import json

import cv2
import numpy as np
import pytest

from pano3d.datasets import LinspaceViews, LoadViews, ResizeCrop, read_scene


def load(root, scene_id='a'):
    scene = read_scene(str(root / 'scenes' / scene_id))
    return LoadViews()(LinspaceViews(num_views=3)({'scene': scene, 'backend_args': None}))


def test_values(data_root, room):
    results = load(data_root, 'scene0001_00')
    assert [view.id for view in results['views']] == ['000000', '000080', '000160']
    for i, index in enumerate((0, 4, 8)):
        pose = room.camera(index)
        np.testing.assert_array_equal(results['camera_to_world'][i], pose)
        depth = room.image((40, 32), results['depth_intrinsics'][i], pose)[0]
        _, points, instance = room.image((64, 48), results['color_intrinsics'][i], pose)
        np.testing.assert_allclose(results['depth'][i], depth, atol=0.00051)  # stored in millimetres
        np.testing.assert_array_equal(results['instance'][i], instance)
        # JPEG is not lossless, but RGB and BGR differ by far more.
        error = np.abs(results['color'][i].astype(float) - room.color_of(points))
        assert np.median(error) < 2
        assert np.median(np.abs(results['color'][i][..., ::-1].astype(float) - room.color_of(points))) > 20
    assert [results[key][0].dtype for key in ('color', 'depth', 'instance')] == [np.uint8, np.float32, np.uint16]


def test_without_annotation_everything_is_zero(make_dataset):
    root = make_dataset({'a': 3})
    path = root / 'scenes' / 'a' / 'scene.json'
    path.write_text(path.read_text().replace('"instance/000020.png"', 'null'))
    instance = load(root)['instance']
    assert instance[1].shape == (48, 64)
    assert [bool(i.any()) for i in instance] == [True, False, True]


def test_without_depth_all_of_it_is_unknown_and_colour_gives_the_camera(make_dataset):
    root = make_dataset({'a': 3})
    path = root / 'scenes' / 'a' / 'scene.json'
    record = json.loads(path.read_text())
    frame = record['frames'][1]
    frame['depth'] = None
    del frame['depth_size'], frame['depth_intrinsics']
    path.write_text(json.dumps(record))
    results = load(root)
    assert results['depth'][1].shape == (48, 64)
    assert [bool(depth.any()) for depth in results['depth']] == [True, False, True]
    np.testing.assert_array_equal(results['depth_intrinsics'][1], results['color_intrinsics'][1])
    assert [depth.any() for depth in ResizeCrop(size=(14, 28))(results)['depth']] == [True, False, True]


def test_exif_orientation_is_not_applied(make_dataset):
    """The intrinsics belong to the pixels as stored."""
    root = make_dataset({'a': 3})
    path = root / 'scenes' / 'a' / 'color/000020.jpg'
    before = load(root)['color'][1]
    tiff = b'II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0'  # orientation 6: turn by 90 degrees
    exif = b'Exif\0\0' + tiff
    data = path.read_bytes()
    path.write_bytes(data[:2] + b'\xff\xe1' + (len(exif) + 2).to_bytes(2, 'big') + exif + data[2:])
    assert cv2.imread(str(path)).shape[:2] == (64, 48), 'the tag must be one that OpenCV would obey'
    np.testing.assert_array_equal(load(root)['color'][1], before)


def png(image):
    return cv2.imencode('.png', image)[1].tobytes()


def tiff(image):
    return cv2.imencode('.tiff', image)[1].tobytes()


@pytest.mark.parametrize(
    ('file', 'content', 'message'),
    [
        ('color/000020.jpg', b'', r'not a readable image \(0 bytes\)'),
        ('color/000020.jpg', b'no image', r'not a readable image \(8 bytes\)'),
        ('color/000020.jpg', png(np.zeros((32, 40, 3), np.uint8)), r'expected \(width, height\) \(64, 48\), found'),
        ('depth/000020.png', png(np.zeros((32, 40), np.uint8)), 'expected 16-bit grey values, found uint8'),
        ('depth/000020.png', png(np.zeros((32, 40, 3), np.uint16)), 'expected 16-bit grey values'),
        ('instance/000020.png', png(np.zeros((32, 40), np.uint16)), r'expected \(width, height\) \(64, 48\), found'),
        ('instance/000020.png', png(np.zeros((48, 64, 3), np.uint8)), '8- or 16-bit grey values, found uint8 of shape'),
        ('instance/000020.png', tiff(np.zeros((48, 64), np.float32)), '8- or 16-bit grey values, found float32'),
    ],
)
def test_damage_is_named(make_dataset, file, content, message):
    root = make_dataset({'a': 3})
    path = root / 'scenes' / 'a' / file
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load(root)
    assert f'scene a, frame 000020: {path}' in str(caught.value)


@pytest.mark.parametrize('file', ['color/000020.jpg', 'depth/000020.png', 'instance/000020.png'])
def test_missing_file(make_dataset, file):
    root = make_dataset({'a': 3})
    (root / 'scenes' / 'a' / file).unlink()
    with pytest.raises(FileNotFoundError, match=rf'scene a, frame 000020: .*{file}.*prepare_scannet'):
        load(root)


def test_needs_views(data_root):
    scene = read_scene(str(data_root / 'scenes' / 'scene0000_00'))
    with pytest.raises(ValueError, match='put RandomStrideViews or LinspaceViews before it'):
        LoadViews()({'scene': scene, 'backend_args': None})


@pytest.mark.parametrize(('min_size', 'by'), [((24, 32), 2), ((25, 32), 1), ((24, 33), 1), ((12, 15), 4), ((6, 8), 8)])
def test_colour_is_decoded_no_larger_than_needed(data_root, room, min_size, by):
    """The intrinsics follow: every pixel has the colour of where it looks to, within the blur of edges."""
    scene = read_scene(str(data_root / 'scenes' / 'scene0001_00'))
    chosen = LinspaceViews(num_views=3)({'scene': scene, 'backend_args': None})
    results, full = LoadViews(min_size=min_size)(chosen), LoadViews()(chosen)
    for i, index in enumerate((0, 4, 8)):
        image = results['color'][i]
        assert image.shape == (48 // by, 64 // by, 3)
        pose = room.camera(index)
        _, points, instance = room.image((64 // by, 48 // by), results['color_intrinsics'][i], pose)
        inside = np.ones(instance.shape, bool)  # not at the edges of the room
        inside[1:] &= instance[1:] == instance[:-1]
        inside[:-1] &= instance[1:] == instance[:-1]
        inside[:, 1:] &= instance[:, 1:] == instance[:, :-1]
        inside[:, :-1] &= instance[:, 1:] == instance[:, :-1]
        error = np.abs(image.astype(float) - room.color_of(points))[inside]
        assert np.median(error) < 2
        np.testing.assert_array_equal(results['instance'][i], full['instance'][i])
        np.testing.assert_array_equal(results['depth'][i], full['depth'][i])
    np.testing.assert_array_equal(results['instance_intrinsics'], full['color_intrinsics'])


def test_half_decoded_colour_gives_the_same_sample(data_root):
    scene = read_scene(str(data_root / 'scenes' / 'scene0001_00'))
    chosen = LinspaceViews(num_views=3)({'scene': scene, 'backend_args': None})
    resize = ResizeCrop(size=(20, 26))
    reduced, full = (resize(LoadViews(min_size=size)(chosen)) for size in ((20, 26), None))
    assert reduced.keys() == full.keys()
    np.testing.assert_allclose(reduced['intrinsics'], full['intrinsics'], rtol=1e-12)
    np.testing.assert_array_equal(reduced['depth'], full['depth'])
    np.testing.assert_array_equal(reduced['instance'], full['instance'])
    assert np.abs(reduced['color'].astype(float) - full['color']).mean() < 1


def test_only_jpeg_is_decoded_in_part(make_dataset):
    """Other formats are decoded in full anyway, and OpenCV rounds their half sizes down."""
    root = make_dataset({'a': 3})
    folder = root / 'scenes' / 'a'
    record = json.loads((folder / 'scene.json').read_text())
    for frame in record['frames']:
        image = cv2.imread(str(folder / frame['color']))[:, :63]
        frame.update(color=frame['color'].replace('.jpg', '.png'), color_size=[63, 48], instance=None)
        cv2.imwrite(str(folder / frame['color']), image)
    (folder / 'scene.json').write_text(json.dumps(record))
    chosen = LinspaceViews(num_views=3)({'scene': read_scene(str(folder)), 'backend_args': None})
    reduced, full = LoadViews(min_size=(6, 8))(chosen), LoadViews()(chosen)
    np.testing.assert_array_equal(reduced['color'], full['color'])
    np.testing.assert_array_equal(reduced['color_intrinsics'], full['color_intrinsics'])


def test_a_size_that_needs_more_pixels_than_were_decoded(data_root):
    scene = read_scene(str(data_root / 'scenes' / 'scene0001_00'))
    chosen = LinspaceViews(num_views=3)({'scene': scene, 'backend_args': None})
    with pytest.raises(ValueError, match=r'needs more than the \(24, 32\) pixels .* `min_size`'):
        ResizeCrop(size=(30, 32))(LoadViews(min_size=(20, 26))(chosen))


@pytest.mark.parametrize('size', [(0, 5), (5,), (3, 4, 5)])
def test_bad_min_size(size):
    with pytest.raises(ValueError, match='`min_size` must be'):
        LoadViews(min_size=size)
