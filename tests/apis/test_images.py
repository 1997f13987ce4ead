"""Reading images: order, orientation, and messages that name the culprit."""

import numpy as np
import pytest
from PIL import Image

from pano3d.apis.images import list_images, load_views, read_image


def save(path, color=(10, 20, 30), size=(8, 6), **options):
    Image.new('RGB', size, color).save(path, **options)
    return path


def test_files_come_in_natural_order(tmp_path):
    for name in ('view10.png', 'view2.JPG', 'View1.jpeg', 'b.png', '.hidden.png', 'notes.txt'):
        (tmp_path / name).touch()
    (tmp_path / 'folder.png').mkdir()
    assert [path.name for path in list_images(tmp_path)] == ['b.png', 'View1.jpeg', 'view2.JPG', 'view10.png']


def test_digits_and_letters_can_be_compared(tmp_path):
    for name in ('a1.png', 'a.png', '1a.png', '1.png', '٣.png', '²x.png'):
        (tmp_path / name).touch()
    assert len(list_images(tmp_path)) == 6


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientation_is_undone(tmp_path, orientation):
    """The stored picture is turned so that its EXIF tag brings the upright one back."""
    upright = np.zeros((6, 8, 3), np.uint8)
    upright[0, :, 0], upright[:, 0, 1] = 200, 100
    # What a viewer does for each tag, undone (the EXIF specification, tag 0x0112).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / 'photo.png', exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / 'photo.png'), upright)


def test_grey_and_transparent_images_become_rgb(tmp_path):
    Image.new('L', (4, 3), 77).save(tmp_path / 'grey.png')
    Image.new('RGBA', (4, 3), (1, 2, 3, 128)).save(tmp_path / 'transparent.png')
    assert (read_image(tmp_path / 'grey.png') == 77).all()
    np.testing.assert_array_equal(read_image(tmp_path / 'transparent.png')[0, 0], [1, 2, 3])


def test_views_are_spread_and_named(tmp_path):
    for number in range(11):
        save(tmp_path / f'{number}.png', color=(number, 0, 0))
    images, names = load_views(tmp_path, max_views=3)
    assert names == ['0', '5', '10']
    assert [int(image[0, 0, 0]) for image in images] == [0, 5, 10]
    assert load_views(str(tmp_path))[1] == [str(number) for number in range(11)]


def test_lists_keep_their_order(tmp_path):
    paths = [save(tmp_path / 'b.png'), str(save(tmp_path / 'a.png'))]
    assert load_views(paths)[1] == ['b', 'a']
    arrays = [np.full((4, 5, 3), value, np.uint8) for value in (1, 2)]
    images, names = load_views(arrays)
    assert names == ['0', '1'] and images[1] is arrays[1]


@pytest.mark.parametrize(
    ('content', 'message'), [(b'', 'broken.jpg cannot be read'), (b'not a picture', 'broken.jpg cannot be read')]
)
def test_an_unreadable_image_is_named(tmp_path, content, message):
    (tmp_path / 'broken.jpg').write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_views(tmp_path)


def test_a_truncated_image_is_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / 'cut.jpg')
    data = (tmp_path / 'cut.jpg').read_bytes()
    (tmp_path / 'cut.jpg').write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r'cut\.jpg cannot be read'):
        load_views(tmp_path)


def test_other_errors(tmp_path):
    with pytest.raises(ValueError, match='nowhere does not exist'):
        load_views(tmp_path / 'nowhere')
    (tmp_path / 'notes.txt').touch()
    with pytest.raises(ValueError, match=r'no images among its 1 files; looked for \.jpg, \.jpeg'):
        load_views(tmp_path)
    with pytest.raises(ValueError, match=r'notes\.txt is a file, expected a folder'):
        load_views(tmp_path / 'notes.txt')
    with pytest.raises(ValueError, match=r'gone\.png does not exist'):
        load_views([tmp_path / 'gone.png'])
    with pytest.raises(ValueError, match='the list is empty'):
        load_views([])
    with pytest.raises(ValueError, match=r'image 1: expected RGB .* got \(4, 5, 3\) of float32'):
        load_views([np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5, 3), np.float32)])
