from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from pano3d.conversion.rasterise import MeshRasteriser
from pano3d.conversion.scannetpp import convert_scannetpp
from pano3d.datasets.scene_record import read_scene

TOOL = Path(__file__).parents[2] / 'tools' / 'prepare_scannetpp.py'
SIZE = (48, 32)
# A wall two metres ahead, the left half of it a chair; one vertex belongs to two objects.
VERTICES = [[x, y, 2] for x in (-9, 0, 0.001, 9) for y in (-9, 9)]
FACES = [[0, 1, 2], [1, 3, 2], [4, 5, 6], [5, 7, 6], [2, 3, 4], [3, 5, 4]]
GROUPS = [
    {'objectId': 4, 'label': 'seat', 'segments': [0, 1, 2, 3]},
    {'objectId': 7, 'label': 'wall', 'segments': [4, 5, 6, 7]},
    {'objectId': 9, 'label': 'junk', 'segments': [4, 5]},
]
DSLR_CAMERA = '3 OPENCV_FISHEYE 48 32 22 22 24 16 -0.03 -0.008 -0.001 0.0004'
IPHONE_CAMERA = '1 OPENCV 48 32 40 40 24 16 0.05 -0.07 0.0002 0.0005'


def jpeg(path: Path, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8)
    Image.fromarray(noise).save(path, 'JPEG')


def write_ply(path: Path) -> None:
    vertex = np.zeros(len(VERTICES), [('xyz', '<f4', 3), ('rgb', 'u1', 3)])
    vertex['xyz'] = VERTICES
    face = np.zeros(len(FACES), [('count', 'u1'), ('indices', '<i4', 3)])
    face['count'], face['indices'] = 3, FACES
    lines = ['ply', 'format binary_little_endian 1.0', f'element vertex {len(VERTICES)}']
    lines += [f'property float {axis}' for axis in 'xyz'] + [f'property uchar {c}' for c in ('red', 'green', 'blue')]
    lines += [f'element face {len(FACES)}', 'property list uchar int vertex_indices', 'end_header\n']
    path.write_bytes('\n'.join(lines).encode() + vertex.tobytes() + face.tobytes())


class Release:
    """Writes scans, all with the same mesh; cameras look at it straight, a little to the right of each other."""

    def __init__(self, root: Path) -> None:
        self.root = root
        metadata = root / 'metadata' / 'semantic_benchmark'
        metadata.mkdir(parents=True)
        (metadata / 'top100.txt').write_text('wall\nchair\n')
        (metadata / 'top100_instance.txt').write_text('chair\n')
        (metadata / 'map_benchmark.csv').write_text('class,count,semantic_map_to,instance_map_to\nseat,1,chair,chair\n')
        (root / 'splits').mkdir()

    def file(self, scene_id: str, name: str) -> Path:
        path = self.root / 'data' / scene_id / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def add(self, scene_id: str, list_name: str = 'nvs_sem_train') -> None:
        with open(self.root / 'splits' / f'{list_name}.txt', 'a') as file:
            file.write(scene_id + '\n')
        write_ply(self.file(scene_id, 'scans/mesh_aligned_0.05.ply'))
        if list_name != 'sem_test':
            self.file(scene_id, 'scans/segments.json').write_text(json.dumps({'segIndices': list(range(8))}))
            self.file(scene_id, 'scans/segments_anno.json').write_text(json.dumps({'segGroups': GROUPS}))
            self.file(scene_id, 'scans/mesh_aligned_0.05_mask.txt').write_text('6\n')
        self.write_camera(scene_id, 'dslr', DSLR_CAMERA, ['DSC00002.JPG', 'DSC00001.JPG', 'DSC00003.JPG'])
        self.write_camera(scene_id, 'iphone', IPHONE_CAMERA, [f'video/frame_{i:06d}.jpg' for i in (0, 2)])
        for number in (1, 2, 3):
            jpeg(self.file(scene_id, f'dslr/resized_images/DSC0000{number}.JPG'), number)
        for number in range(3):
            jpeg(self.file(scene_id, f'iphone/rgb/frame_{number:06d}.jpg'), number)
        depth = np.full((192, 256), 1234, np.uint16).tobytes()
        block = bytes([0xF0]) + bytes([255]) * ((len(depth) - 15) // 255) + bytes([(len(depth) - 15) % 255]) + depth
        self.file(scene_id, 'iphone/depth.bin').write_bytes((len(block).to_bytes(4, 'little') + block) * 3)

    def write_camera(self, scene_id: str, name: str, camera: str, images: list[str], bad: tuple[str, ...] = ()) -> None:
        self.file(scene_id, f'{name}/colmap/cameras.txt').write_text(f'# cameras\n{camera}\n')
        lines = [f'{i} 1 0 0 0 {-i / 10} 0 0 {camera.split()[0]} {image}\n' for i, image in enumerate(images)]
        self.file(scene_id, f'{name}/colmap/images.txt').write_text('# images\n' + '\n'.join(lines) + '\n')
        frames = [{'file_path': image, 'is_bad': image in bad} for image in images]
        self.file(scene_id, f'{name}/nerfstudio/transforms.json').write_text(json.dumps({'frames': frames}))

    def write_mask(self, scene_id: str, name: str, mask: np.ndarray) -> None:
        Image.fromarray(mask).save(self.file(scene_id, name))


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return Release(tmp_path / 'raw')


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / 'out'


def scene_of(out: Path, scene_id: str = 'aa') -> dict[str, Any]:
    return json.loads((out / 'scenes' / scene_id / 'scene.json').read_text())


def image_of(out: Path, name: str, scene_id: str = 'aa') -> np.ndarray:
    return np.array(Image.open(out / 'scenes' / scene_id / name))


def test_stored_dslr_scene(release: Release, out: Path) -> None:
    release.add('aa')
    summary = convert_scannetpp(release.root, out)
    assert summary.failed == ()
    scene = scene_of(out)
    assert [frame['id'] for frame in scene['frames']] == ['DSC00001', 'DSC00002', 'DSC00003']
    assert [frame['camera_to_world'][0][3] for frame in scene['frames']] == [0.1, 0, 0.2]
    assert (scene['source'], scene['camera'], scene['depth'], scene['image_labels']) == (
        'scannetpp_v2',
        'dslr',
        'mesh',
        '2d',
    )
    assert scene['axis_alignment'] == np.eye(4).tolist()
    frame = scene['frames'][1]
    assert (frame['color_size'], frame['depth_size'], frame['mask']) == ([48, 32], [48, 32], None)
    assert (frame['color_intrinsics'][0][2], frame['color_intrinsics'][1][2]) == (23.5, 15.5)
    depth, instance = image_of(out, frame['depth']), image_of(out, frame['instance'])
    assert (depth == 2000).all()
    assert (instance[:, :24] == 1).all()
    assert (instance[:, 24:] == 3).all(), 'under the rule for images the last object has the vertices, used or not'
    with np.load(out / 'scenes' / 'aa' / 'mesh.npz') as mesh:
        assert mesh['instance'].tolist() == [1, 1, 1, 1, 2, 2, 2, 2]
        assert np.flatnonzero(mesh['excluded']).tolist() == [6]
        assert mesh['faces'].tolist() == FACES
    assert [record['scannetpp_id'] for record in scene['instances']] == [1, 0, None]
    assert json.loads((out / 'label_space.json').read_text())['classes'][0] == {'name': 'wall', 'id': 0, 'stuff': True}
    assert sorted(path.name for path in out.iterdir()) == ['label_space.json', 'scenes', 'train.json']


def test_datasets_read_what_is_written(release: Release, out: Path) -> None:
    release.add('aa')
    convert_scannetpp(release.root, out, camera='iphone')
    scene = read_scene(str(out / 'scenes' / 'aa'))
    assert [frame.id for frame in scene.frames] == ['000000', '000002']
    assert scene.frames[0].depth_size == (256, 192)
    assert scene.depth_scale == 0.001


def test_rule_for_3d_in_images(release: Release, out: Path) -> None:
    release.add('aa')
    convert_scannetpp(release.root, out, image_labels='3d')
    instance = image_of(out, 'instance/DSC00002.png')
    assert (instance[:, :24] == 1).all()
    assert (instance[:, 24:] == 2).all()


def test_depth_of_the_iphone(release: Release, out: Path) -> None:
    release.add('aa')
    convert_scannetpp(release.root, out, camera='iphone')
    assert np.isin(image_of(out, 'depth/000000.png'), [1234]).all()
    convert_scannetpp(release.root, out, camera='iphone', depth='mesh')
    frame = scene_of(out)['frames'][0]
    assert frame['depth_size'] == [48, 32]
    assert (image_of(out, 'depth/000000.png') == 2000).all()


def test_anonymised_pixels_are_void_and_without_depth(release: Release, out: Path) -> None:
    release.add('aa')
    mask = np.full((32, 48), 255, np.uint8)
    mask[:, :10] = 0
    release.write_mask('aa', 'dslr/resized_anon_masks/DSC00002.png', mask)
    release.write_mask('aa', 'iphone/rgb_masks/frame_000002.png', mask)
    for camera, frame_id in (('dslr', 'DSC00002'), ('iphone', '000002')):
        convert_scannetpp(release.root, out, camera=camera)
        frames = {frame['id']: frame for frame in scene_of(out)['frames']}
        assert [frame['mask'] is None for frame in frames.values()].count(False) == 1
        valid = image_of(out, frames[frame_id]['mask']) == 255
        assert set(np.unique(image_of(out, frames[frame_id]['mask']))) == {0, 255}
        assert not valid[:, 0].any()
        assert valid[:, 20:].all()
        instance, depth = image_of(out, frames[frame_id]['instance']), image_of(out, frames[frame_id]['depth'])
        assert ((instance == 0) == ~valid).all()
        columns = (np.arange(depth.shape[1]) + 0.5) * 48 / depth.shape[1]
        assert (depth[:, columns > 20] > 0).all()
        assert not depth[:, columns < 1].any()


def test_video_instead_of_files(release: Release, out: Path) -> None:
    release.add('aa')
    images = release.file('aa', 'iphone/rgb/frame_000000.jpg').parent
    frames = [np.full((32, 48, 3), 40 * i + 50, np.uint8) for i in range(3)]
    masks = [np.full((32, 48, 3), 255, np.uint8) for _ in range(3)]
    masks[2][:, :20] = 0
    for path in images.iterdir():
        path.unlink()
    for name, pictures in (('rgb.mkv', frames), ('rgb_mask.mkv', masks)):
        path = str(release.file('aa', f'iphone/{name}'))
        writer = cv2.VideoWriter(path, cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*'FFV1'), 30, SIZE)
        for picture in pictures:
            writer.write(picture)
        writer.release()
    summary = convert_scannetpp(release.root, out, camera='iphone')
    assert summary.failed == ()
    assert [int(image_of(out, f'color/00000{i}.jpg').mean()) // 10 for i in (0, 2)] == [5, 13]
    assert (image_of(out, 'mask/000000.png') == 255).all()
    assert not image_of(out, 'mask/000002.png')[:, :10].any()
    release.write_camera('aa', 'iphone', IPHONE_CAMERA, ['frame_000002.jpg', 'frame_000007.jpg'])
    describe = convert_scannetpp(release.root, out, camera='iphone').describe()
    assert 'iphone/rgb.mkv: frame 7: cannot be decoded, or the video ends before it' in describe


def test_frames_that_are_left_out(release: Release, out: Path) -> None:
    release.add('aa')
    names = ['DSC00001.JPG', 'DSC00002.JPG', 'DSC00003.JPG', 'DSC00004.JPG', 'DSC00005.JPG', 'DSC00006.JPG']
    release.write_camera('aa', 'dslr', DSLR_CAMERA, names, bad=('DSC00002.JPG',))
    path = release.file('aa', 'dslr/resized_images/DSC00003.JPG')
    path.write_bytes(path.read_bytes()[:300])
    Image.new('RGB', (32, 48)).save(release.file('aa', 'dslr/resized_images/DSC00005.JPG'))
    jpeg(release.file('aa', 'dslr/resized_images/DSC00006.JPG'), 6)
    release.file('aa', 'dslr/resized_anon_masks/DSC00006.png').write_bytes(b'no image')
    summary = convert_scannetpp(release.root, out)
    assert [frame['id'] for frame in scene_of(out)['frames']] == ['DSC00001']
    report = scene_of(out)['report']
    assert (report['frames_total'], report['frames_marked_bad']) == (6, ['DSC00002'])
    assert report['frames_damaged'] == ['DSC00003', 'DSC00004', 'DSC00005', 'DSC00006']
    for words in ('DSC00003.JPG: color image', 'No such file', 'of size 48x32, found 32x48', 'expected a PNG image'):
        assert words in summary.describe()


def test_frame_skip_counts_registered_images(release: Release, out: Path) -> None:
    release.add('aa')
    convert_scannetpp(release.root, out, frame_skip=2)
    assert [frame['id'] for frame in scene_of(out)['frames']] == ['DSC00001', 'DSC00003']


def test_bad_frames_are_known_by_their_name_alone(release: Release, out: Path) -> None:
    release.add('aa')
    frames = [{'file_path': 'frame_000002.jpg', 'is_bad': True}]  # COLMAP calls it video/frame_000002.jpg
    release.file('aa', 'iphone/nerfstudio/transforms.json').write_text(json.dumps({'frames': frames}))
    convert_scannetpp(release.root, out, camera='iphone')
    assert [frame['id'] for frame in scene_of(out)['frames']] == ['000000']
    assert scene_of(out)['report']['frames_marked_bad'] == ['000002']


def test_scans_of_the_test_list_have_no_annotation(release: Release, out: Path) -> None:
    release.add('aa', 'sem_test')
    assert convert_scannetpp(release.root, out).failed == ()
    scene = scene_of(out)
    assert scene['instances'] == []
    assert [frame['instance'] for frame in scene['frames']] == [None] * 3
    assert (out / 'test.json').is_file()


@pytest.mark.parametrize('camera', ['dslr', 'iphone'])
@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('scans/mesh_aligned_0.05.ply', 'ply', 'mesh_aligned_0.05.ply: expected a PLY header'),
        ('scans/segments.json', '{"segIndices": [0]}', 'segments.json: segIndices has 1 entries'),
        (
            'scans/segments_anno.json',
            '{"segGroups": [{"objectId": 1, "segments": []}]}',
            r'segments_anno.json: segGroups\[0\]: no key label',
        ),
        ('scans/segments_anno.json', '[' * 100_000, 'segments_anno.json: not a JSON file'),
        (
            'scans/segments_anno.json',
            '{"segGroups": [{"objectId": 1, "label": "a", "segments": [1' + '0' * 30 + ']}]}',
            'exceeds 64 bits',
        ),
        ('scans/mesh_aligned_0.05_mask.txt', '8', 'mask.txt: line 1: expected a vertex number below 8'),
        ('CAMERA/colmap/cameras.txt', '1 FULL_OPENCV 4 4 1 1 1 1', "cameras.txt: line 1: camera model 'FULL_OPENCV'"),
        ('CAMERA/colmap/images.txt', '1 1 0 0 0 0 0 0 3 ../../../x.jpg', 'images.txt: image name'),
        ('CAMERA/colmap/images.txt', '', 'no usable frame'),
        ('CAMERA/nerfstudio/transforms.json', '{}', 'transforms.json: expected frames'),
    ],
)
def test_a_damaged_file_fails_one_scan_only(
    release: Release, out: Path, camera: Any, name: str, content: str, message: str
) -> None:
    for scene_id in ('aa', 'bb'):
        release.add(scene_id)
    release.file('aa', name.replace('CAMERA', camera)).write_text(content)
    summary = convert_scannetpp(release.root, out, camera=camera)
    assert [result.scene_id for result in summary.finished] == ['bb']
    with pytest.raises(ValueError, match=message):
        raise ValueError(summary.failed[0].error)
    assert sorted(path.name for path in (out / 'scenes').iterdir()) == ['bb']


@pytest.mark.parametrize(
    ('lines', 'message'),
    [
        (
            '1 1 0 0 0 0 0 0 3 DSC1.JPG\n\n2 1 0 0 0 0 0 0 3 DSC1.jpg\n\n',
            "'DSC1.JPG' and 'DSC1.jpg' are the same frame",
        ),
        ('1 1 0 0 0 0 0 0 5 DSC1.JPG\n\n', r"'DSC1.JPG' is of camera 5; .*cameras.txt has \[3\]"),
        ('1 1 0 0 0 0 0 0 3 a/DSC1.JPG\n\n', "image name 'a/DSC1.JPG'"),
    ],
)
def test_images_that_contradict_the_rest(release: Release, out: Path, lines: str, message: str) -> None:
    release.add('aa')
    release.file('aa', 'dslr/colmap/images.txt').write_text(lines)
    with pytest.raises(ValueError, match=message):
        raise ValueError(convert_scannetpp(release.root, out).failed[0].error)


def test_a_camera_that_claims_a_large_image_allocates_nothing(
    release: Release, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release.add('aa')
    camera = DSLR_CAMERA.replace('48 32', '4096 4096')
    release.write_camera('aa', 'dslr', camera, ['DSC00001.JPG'])
    monkeypatch.setattr(MeshRasteriser, 'view', lambda *_: pytest.fail('the image has not been checked'))
    error = str(convert_scannetpp(release.root, out).failed[0].error)
    assert 'DSC00001.JPG: color image: expected a JPEG image of size 4096x4096, found 48x32' in error


def test_a_wild_lens_fails_the_scan(release: Release, out: Path) -> None:
    release.add('aa')
    release.write_camera('aa', 'dslr', '3 OPENCV_FISHEYE 48 32 22 22 24 16 1e300 -1e300 1e300 1e300', ['DSC00001.JPG'])
    assert 'no pinhole sees' in str(convert_scannetpp(release.root, out).failed[0].error)


def test_finished_scenes_are_kept(release: Release, out: Path) -> None:
    release.add('aa')
    release.add('bb')

    def reused(**settings: Any) -> list[bool]:
        return [result.reused for result in convert_scannetpp(release.root, out, **settings).results]

    assert reused() == [False, False]
    assert reused() == [True, True]
    assert reused(frame_skip=2) == [False, False]
    release.write_mask('bb', 'dslr/resized_anon_masks/DSC00001.png', np.full((32, 48), 255, np.uint8))
    (release.root / 'data' / 'aa').rename(release.root / 'moved')
    assert reused(frame_skip=2) == [True, False]
    assert reused(camera='iphone') == [False, False]


def test_workers_give_the_same_files(release: Release, tmp_path: Path) -> None:
    for scene_id in ('aa', 'bb', 'cc'):
        release.add(scene_id)
    files = []
    for num_workers in (1, 2):
        out = tmp_path / str(num_workers)
        convert_scannetpp(release.root, out, camera='iphone', num_workers=num_workers)
        files.append({str(path.relative_to(out)): path.read_bytes() for path in out.rglob('*') if path.is_file()})
    assert files[0] == files[1]
    assert len(files[0]) == 2 + 3 * (2 + 2 * 3)


def test_ranks_give_the_same_files_though_one_is_killed(release: Release, tmp_path: Path) -> None:
    for index, list_name in enumerate(('nvs_sem_train', 'nvs_sem_val', 'sem_test', 'nvs_sem_train', 'nvs_sem_train')):
        release.add(f'scene{index}', list_name)
    convert_scannetpp(release.root, tmp_path / 'alone')
    out = tmp_path / 'shared'
    tool = [sys.executable, str(TOOL), str(release.root), str(out), '--num-workers', '1', '--world-size', '2', '--rank']
    killed, other = (
        subprocess.Popen([*tool, rank], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) for rank in '10'
    )
    while not list(out.glob('scenes/*')) and killed.poll() is None:
        time.sleep(0.001)
    killed.kill()
    killed.communicate()
    output = other.communicate(timeout=60)[0]
    assert other.returncode == 0
    assert output.startswith('rank 0 of 2: ')
    again = subprocess.run([*tool, '1'], capture_output=True, text=True, timeout=60, check=True)
    assert again.stdout.splitlines()[0] == 'rank 1 of 2: 0 scenes with 0 frames converted here, 0 failed here'
    alone, shared = (
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}
        for folder in (tmp_path / 'alone', out)
    )
    assert shared == alone


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'frame_skip': 0}, '`frame_skip` must be at least 1, got 0'),
        ({'num_workers': 0}, '`num_workers` must be at least 1, got 0'),
        ({'camera': 'phone'}, "`camera` must be 'dslr' or 'iphone', got 'phone'"),
        ({'image_labels': '4d'}, "`image_labels` must be '2d' or '3d', got '4d'"),
        ({'depth': 'sensor'}, '`depth` of the dslr must be one of'),
        ({'splits': '/nowhere'}, 'no split list'),
    ],
)
def test_unusable_settings(release: Release, out: Path, settings: dict[str, Any], message: str) -> None:
    release.add('aa')
    with pytest.raises(ValueError, match=message):
        convert_scannetpp(release.root, out, **settings)
    assert not out.exists()


@pytest.mark.parametrize('scene_id', ['../aa', '/etc', '.hidden'])
def test_ids_that_lead_elsewhere_fail(release: Release, out: Path, scene_id: str) -> None:
    release.add('aa')
    (release.root / 'splits' / 'nvs_sem_val.txt').write_text(scene_id)
    summary = convert_scannetpp(release.root, out)
    assert [(result.scene_id, 'scene id' in str(result.error)) for result in summary.failed] == [(scene_id, True)]


def test_tool_reports_and_fails(release: Release, out: Path) -> None:
    release.add('aa')
    release.add('bb')
    release.file('bb', 'iphone/depth.bin').write_bytes(b'')
    command = [sys.executable, str(TOOL), str(release.root), str(out), '--camera', 'iphone', '--num-workers', '1']
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == '1 scenes with 2 frames (0 were finished before), 1 failed'
    assert 'iphone/depth.bin: the file is empty' in done.stdout.splitlines()[-1]
    nothing = subprocess.run([*command, '--splits', str(out)], capture_output=True, text=True, timeout=60, check=False)
    assert (nothing.returncode, 'no split list' in nothing.stderr) == (2, True)
