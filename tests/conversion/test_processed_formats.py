"""Round trips: files in the layouts of other groups are written here, converted, and read as stored scenes."""

import io
import json
import pickle
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from plyfile import PlyData, PlyElement

from pano3d.conversion.mmdet3d_scannet import convert_mmdet3d_scannet, read_infos
from pano3d.conversion.panst3r import convert_panst3r
from pano3d.conversion.scannet_25k import convert_scannet_25k
from pano3d.conversion.scannet_splits import VALIDATION_SPACES, official_splits
from pano3d.conversion.share import Share
from pano3d.conversion.siu3r import convert_siu3r
from pano3d.datasets import ScanNetMultiViewDataset, read_scene
from pano3d.structures import LabelSpace

TOOL = Path(__file__).parents[2] / 'tools/convert_dataset.py'
SIZE = (24, 16)  # width, height
INTRINSICS = np.array([[20.0, 0, 11.25], [0, 21.0, 7.75], [0, 0, 1]])


def padded(matrix):
    full = np.eye(4)
    full[:3, :3] = matrix
    return full


def pose_of(index):
    angle = 0.2 * index
    pose = np.eye(4)
    pose[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    pose[:3, 3] = [0.5 * index, -1, 0.25]
    return pose


def encoded(pixels, kind='PNG'):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        path.write_text(content)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savetxt(path, content, fmt='%f')


def color_of(index):
    return encoded(np.random.default_rng(index).integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8), 'JPEG')


def depth_of(index):
    return np.random.default_rng(index).integers(0, 5000, (SIZE[1], SIZE[0])).astype(np.uint16)


def as_rgb(values):
    return np.stack([values % 256, values // 256 % 256, values // 65536], -1).astype(np.uint8)


def blocks(*values):
    """A map of vertical stripes."""
    return np.repeat(np.array(values), SIZE[0] // len(values))[None].repeat(SIZE[1], 0)


def instance_pixels(scene, position):
    return cv2.imread(scene.frames[position].instance, cv2.IMREAD_UNCHANGED)


def check_frames(scene, indices, intrinsics=INTRINSICS, depths=depth_of):
    """Colour bytes, depth values and cameras are those that were written."""
    assert len(scene.frames) == len(indices)
    for frame, index in zip(scene.frames, indices, strict=True):
        assert Path(frame.color).read_bytes() == color_of(index)
        assert np.array_equal(cv2.imread(frame.depth, cv2.IMREAD_UNCHANGED), depths(index))
        assert frame.color_size == SIZE
        assert np.allclose(frame.color_intrinsics, intrinsics, atol=1e-6)
        assert np.allclose(frame.depth_intrinsics, intrinsics, atol=1e-6)
        assert np.allclose(frame.camera_to_world, pose_of(index), atol=1e-6)
    assert scene.depth_scale == 0.001


def sample_of(out, split, label_space, num_views=1):
    pipeline = [
        {'type': 'LinspaceViews', 'num_views': num_views},
        {'type': 'LoadViews'},
        {'type': 'ResizeCrop', 'size': SIZE[::-1]},
        {'type': 'PackScene'},
    ]
    dataset = ScanNetMultiViewDataset(
        data_root=str(out), ann_file=f'{split}.json', label_space=label_space, pipeline=pipeline
    )
    return dataset[0]['data_samples']


class TestSiu3r:
    # wall, chair 7, void class, chair 9, segment 0 of a class, otherfurniture 12
    VALUES = (1001, 5007, 3, 5009, 5000, 20012)

    @pytest.fixture
    def root(self, tmp_path):
        for split, scene, indices in (('train', 'scene0000_00', (0, 5, 10)), ('val', 'scene0011_00', (3,))):
            folder = tmp_path / 'siu3r' / split / scene
            for index in indices:
                write(folder / f'color/{index}.jpg', color_of(index))
                write(folder / f'depth/{index}.png', encoded(depth_of(index)))
                write(folder / f'extrinsic/{index}.txt', pose_of(index))
                write(folder / f'panoptic/{index}.png', encoded(as_rgb(blocks(*np.roll(self.VALUES, index)))))
            write(folder / 'intrinsic.txt', INTRINSICS)
        return tmp_path / 'siu3r'

    def test_round_trip(self, root, tmp_path):
        summary = convert_siu3r(root, tmp_path / 'out')
        assert not summary.failed
        scene = read_scene(str(tmp_path / 'out/scenes/scene0000_00'))
        check_frames(scene, (0, 5, 10))
        assert [frame.id for frame in scene.frames] == ['000000', '000005', '000010'], 'by number, not by letter'
        nyu40 = {instance['id']: instance['nyu40_id'] for instance in scene.instances}
        assert sorted(nyu40.values()) == [1, 5, 5, 39]
        first = instance_pixels(scene, 0)
        assert [nyu40.get(value, 0) for value in first[0, ::4]] == [1, 5, 0, 5, 0, 39]
        for position, index in enumerate((0, 5, 10)):
            assert np.array_equal(instance_pixels(scene, position), np.roll(first, 4 * index, axis=1)), (
                'same object, same id'
            )
        sample = sample_of(tmp_path / 'out', 'train', 'scannet20', num_views=3)
        assert sample.gt_panoptic.category[0, 0, ::4].tolist() == [0, 4, -1, 4, -1, 19]

    def test_a_second_run_keeps_what_is_done(self, root, tmp_path):
        convert_siu3r(root, tmp_path / 'out')
        write(root / 'val/scene0011_00/color/3.jpg', color_of(4) + b'more')
        again = convert_siu3r(root, tmp_path / 'out', num_workers=2)
        assert {result.scene_id: result.reused for result in again.results} == {
            'scene0000_00': True,
            'scene0011_00': False,
        }

    def test_bad_frames_are_left_out_and_reported(self, root, tmp_path):
        folder = root / 'train/scene0000_00'
        write(folder / 'extrinsic/0.txt', np.full((4, 4), -np.inf))
        write(folder / 'panoptic/5.png', encoded(as_rgb(blocks(21001))))
        convert_siu3r(root, tmp_path / 'out')
        record = json.loads((tmp_path / 'out/scenes/scene0000_00/scene.json').read_text())
        assert [frame['id'] for frame in record['frames']] == ['000010']
        assert record['report']['frames_without_pose'] == ['000000']
        assert record['report']['frames_damaged'] == ['000005']
        assert 'panoptic/5.png: class 21: expected 0 to 20' in record['report']['warnings'][0]

    def test_each_scene_is_done_by_one_of_several_ranks(self, root, tmp_path):
        """The second rank comes when the first one is through, and finds all done; a failure is not repeated."""
        write(root / 'val/scene0011_00/color/3.jpg', b'damaged')
        first, second = (convert_siu3r(root, tmp_path / 'out', share=Share(rank, 2)) for rank in (0, 1))
        assert [(result.reused, result.error is None) for result in first.results] == [(False, True), (False, False)]
        assert [(result.reused, result.error is None) for result in second.results] == [(True, True), (False, False)]

    @pytest.mark.slow
    def test_killed_in_the_middle_of_a_scene(self, root, tmp_path):
        """Only what was not finished is done again, and the folder becomes that of a run without interruption."""
        for name in range(12, 150):
            for kind, end in (('color', 'jpg'), ('depth', 'png'), ('extrinsic', 'txt'), ('panoptic', 'png')):
                folder = root / 'val/scene0011_00' / kind
                (folder / f'{name}.{end}').symlink_to(folder / f'3.{end}')
        out, scene = tmp_path / 'out', 'scenes/scene0000_00/scene.json'
        command = [sys.executable, str(TOOL), str(root), str(out), '--format', 'siu3r', '--num-workers', '1']
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while not list(out.glob('scenes/.scene0011_00.*.partial/color/000012.jpg')):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.001)
        process.kill()
        process.communicate()
        assert process.returncode == -9
        assert [path.name for path in out.glob('scenes/scene*')] == ['scene0000_00']
        assert not list(out.glob('*.json'))
        made = (out / scene).stat().st_mtime_ns
        again = convert_siu3r(root, out)
        assert [result.reused for result in again.results] == [True, False]
        assert (out / scene).stat().st_mtime_ns == made
        convert_siu3r(root, tmp_path / 'at once')
        files = [
            {path.relative_to(folder): path.read_bytes() for path in folder.rglob('*') if path.is_file()}
            for folder in (out, tmp_path / 'at once')
        ]
        assert files[0] == files[1]

    def test_a_scene_in_both_splits_is_refused(self, root, tmp_path):
        (root / 'val/scene0000_00').mkdir()
        with pytest.raises(ValueError, match='found scene0000_00 in both `train` and `val`'):
            convert_siu3r(root, tmp_path / 'out')
        assert not (tmp_path / 'out').exists()

    @pytest.mark.parametrize(
        ('name', 'content', 'message'),
        [
            ('intrinsic.txt', '1 2 3', r'intrinsic\.txt: expected a matrix of 9 or 16 numbers, found 3'),
            ('intrinsic.txt', 'a b c d e f g h i', r'intrinsic\.txt: expected a matrix'),
            ('intrinsic.txt', '1 5 0 0 1 0 0 0 1', r'intrinsic\.txt: expected a camera matrix without skew'),
            ('extrinsic/3.txt', np.ones((4, 4)), 'last row 0 0 0 1'),
            ('extrinsic/3.txt', np.diag([1, 1, -1, 1]), r'3\.txt: expected a rotation and a translation'),
            ('extrinsic/3.txt', np.diag([2, 2, 2, 1]), r'3\.txt: expected a rotation and a translation'),
            ('color/3.jpg', b'\xff\xd8\xff', r'3\.jpg: not a JPEG image'),
            ('color/3.jpg', color_of(3)[:-200], r'3\.jpg: the JPEG image cannot be decoded'),
            ('depth/3.png', encoded(depth_of(3))[:200], r'3\.png: not a PNG image'),
            ('depth/3.png', encoded(as_rgb(blocks(1))), r'3\.png: not a PNG image of the kind .* mode RGB'),
            ('depth/3.png', encoded(depth_of(3)[:5]), 'expected one size'),
        ],
    )
    def test_damage_is_named_and_the_other_scene_converted(self, root, tmp_path, name, content, message):
        write(root / 'val/scene0011_00' / name, content)
        summary = convert_siu3r(root, tmp_path / 'out')
        assert [result.scene_id for result in summary.finished] == ['scene0000_00']
        with pytest.raises(ValueError, match=message):
            raise ValueError(summary.failed[0].error)
        assert not (tmp_path / 'out/scenes/scene0011_00').exists()

    def test_no_scenes(self, tmp_path):
        with pytest.raises(ValueError, match='expected folders of scenes in `train` or `val`'):
            convert_siu3r(tmp_path, tmp_path / 'out')


class TestScannetFrames25k:
    COLOR = INTRINSICS
    DEPTH = np.array([[10.0, 0, 5.5], [0, 10.0, 3.5], [0, 0, 1]])

    @pytest.fixture
    def root(self, tmp_path):
        for scene in ('scene0000_00', 'scene0011_00', 'scene0710_00'):
            folder = tmp_path / 'scannet_frames_25k' / scene
            for index in (0, 100):
                write(folder / f'color/{index:06d}.jpg', color_of(index))
                write(folder / f'depth/{index:06d}.png', encoded(depth_of(index)[:8, :12]))
                write(folder / f'pose/{index:06d}.txt', pose_of(index))
                if scene != 'scene0710_00':
                    values = blocks(1, 2001, 5001, 5002, 0, 40003).astype(np.uint16)
                    write(folder / f'instance/{index:06d}.png', encoded(values))
            write(folder / 'intrinsics_color.txt', padded(self.COLOR))
            write(folder / 'intrinsics_depth.txt', padded(self.DEPTH))
        return tmp_path / 'scannet_frames_25k'

    def test_round_trip(self, root, tmp_path):
        out = tmp_path / 'out'
        assert not convert_scannet_25k(root, out).failed
        for split, scene_id in (('train', 'scene0000_00'), ('val', 'scene0011_00'), ('test', 'scene0710_00')):
            listed = json.loads((out / f'{split}.json').read_text())['data_list']
            assert listed == [{'scene_id': scene_id, 'num_frames': 2}]
        scene = read_scene(str(out / 'scenes/scene0000_00'))
        assert np.allclose(scene.frames[1].depth_intrinsics, self.DEPTH)
        assert np.allclose(scene.frames[1].color_intrinsics, self.COLOR)
        assert scene.frames[1].depth_size == (12, 8)
        nyu40 = {instance['id']: instance['nyu40_id'] for instance in scene.instances}
        for position in (0, 1):
            pixels = instance_pixels(scene, position)[0, ::4]
            assert [nyu40.get(value, 0) for value in pixels] == [1, 2, 5, 5, 0, 40]
            assert len(set(pixels)) == 6
        assert not set(np.unique(instance_pixels(scene, 0))[1:]) & set(np.unique(instance_pixels(scene, 1))[1:])
        assert sample_of(out, 'val', 'scannet20').gt_panoptic.category[0, 0, ::4].tolist() == [0, 1, 4, 4, -1, -1]

    def test_several_views_are_refused(self, root, tmp_path):
        convert_scannet_25k(root, tmp_path / 'out')
        with pytest.raises(ValueError, match='numbers the objects of each image anew; use one view per sample'):
            sample_of(tmp_path / 'out', 'train', 'scannet20', num_views=2)

    def test_scenes_without_annotation(self, root, tmp_path):
        convert_scannet_25k(root, tmp_path / 'out')
        scene = read_scene(str(tmp_path / 'out/scenes/scene0710_00'))
        assert scene.instances == ()
        assert all(frame.instance is None for frame in scene.frames)

    def test_own_lists(self, root, tmp_path):
        write(tmp_path / 'lists/scannetv2_val.txt', 'scene0000_00\nscene0555_00\n')
        summary = convert_scannet_25k(root, tmp_path / 'out', splits=tmp_path / 'lists')
        assert [result.scene_id for result in summary.results] == ['scene0000_00']

    def test_a_smaller_map_is_brought_to_the_size_of_the_image(self, root, tmp_path):
        path = root / 'scene0000_00/instance/000000.png'
        small = np.array([[5001, 5002], [1, 0]], np.uint16)
        write(path, encoded(small))
        convert_scannet_25k(root, tmp_path / 'out')
        scene = read_scene(str(tmp_path / 'out/scenes/scene0000_00'))
        pixels = instance_pixels(scene, 0)
        assert pixels.shape == SIZE[::-1]
        for rows, columns in ((0, 0), (0, 1), (1, 0), (1, 1)):
            quarter = pixels[8 * rows : 8 * rows + 8, 12 * columns : 12 * columns + 12]
            assert (quarter == quarter[0, 0]).all()
            assert (quarter[0, 0] == 0) == (small[rows, columns] == 0)


def test_the_official_splits():
    assert len(VALIDATION_SPACES) == 142
    assert {11, 15, 19, 568, 704} <= VALIDATION_SPACES
    assert not {0, 1, 10, 706, 707} & VALIDATION_SPACES
    with pytest.raises(ValueError, match="'kitchen'"):
        official_splits(['kitchen'])


class TestPanst3r:
    CLASSES = ('wall', 'table', 'chair')

    @pytest.fixture
    def root(self, tmp_path):
        root = tmp_path / 'panst3r'
        scenes = {'0a7cc12c0e': ['DSC00002', 'frame_000010'], 'ffff000000': ['DSC00007']}
        names, owner, indices = [], [], []
        for number, (scene, images) in enumerate(scenes.items()):
            for name in images:
                index = len(names)
                values = np.roll(blocks(0, 1 * 256, 2 * 256 + 2, 300 * 256 + 2), 3 * index, 1)
                write(root / scene / f'images/{name}.jpg', color_of(index))
                write(root / scene / f'depth/{name}.png', encoded(depth_of(index)))
                write(root / scene / f'panoptic/{name}.png', encoded(as_rgb(values)))
                names.append(name)
                owner.append(number)
                indices.append(index)
        segments = [{'instance_id': 300, 'orig_class_name': 'office chairs', 'iscrowd': True, 'class_id': 2}]
        write(root / '0a7cc12c0e/segments.json', json.dumps(segments))
        categories = [{'id': i, 'name': name, 'isthing': int(i > 0)} for i, name in enumerate(self.CLASSES)]
        write(root / 'categories.json', json.dumps(categories))
        colmap = INTRINSICS.copy()
        colmap[:2, 2] += 0.5
        np.savez(
            root / 'all_metadata.npz',
            counts=[0, 2],
            scenes=list(scenes),
            sceneids=owner,
            images=names,
            intrinsics=np.stack([colmap] * 3),
            trajectories=np.stack([pose_of(index) for index in indices]),
            pairs=np.zeros((1, 3)),
            cls_sep=256,
        )
        return root

    def test_round_trip(self, root, tmp_path):
        out = tmp_path / 'out'
        assert not convert_panst3r(root, out).failed
        scene = read_scene(str(out / 'scenes/0a7cc12c0e'))
        check_frames(scene, (0, 1))
        assert [frame.id for frame in scene.frames] == ['DSC00002', 'frame_000010']
        assert scene.instances == (
            {'id': 1, 'raw_category': 'wall', 'scannetpp_id': 0, 'crowd': False},
            {'id': 2, 'raw_category': 'chair', 'scannetpp_id': 2, 'crowd': False},
            {'id': 300, 'raw_category': 'office chairs', 'scannetpp_id': 2, 'crowd': True},
        )
        assert instance_pixels(scene, 0)[0, ::6].tolist() == [0, 1, 2, 300]
        assert np.array_equal(instance_pixels(scene, 1), np.roll(instance_pixels(scene, 0), 3, axis=1))
        space = LabelSpace.load(str(out / 'label_space.json'))
        assert (space.names, space.stuff, space.source_key) == (self.CLASSES, {'wall'}, 'scannetpp_id')
        sample = sample_of(out, 'train', str(out / 'label_space.json'), num_views=2)
        assert sample.gt_panoptic.category[0, 0, ::6].tolist() == [-1, 0, 2, 2]
        assert sample.gt_panoptic.instance[0, 0, ::6].tolist() == [0, 0, 2, 300]

    def test_an_object_of_two_classes_is_an_error(self, root, tmp_path):
        write(root / 'ffff000000/panoptic/DSC00007.png', encoded(as_rgb(blocks(2 * 256, 2 * 256 + 1))))
        summary = convert_panst3r(root, tmp_path / 'out')
        assert 'object 2 has class 1, elsewhere 0' in summary.failed[0].error

    @pytest.mark.parametrize(
        ('key', 'values', 'message'),
        [
            ('images', ['DSC00002', '../../../escaped', 'DSC00007'], 'expected different frame ids of letters'),
            ('images', ['DSC00002', 'DSC00002', 'DSC00007'], 'expected different frame ids of letters'),
            ('scenes', ['../escaped', 'ffff000000'], r"scene id '\.\./escaped'"),
        ],
    )
    def test_names_stay_in_their_folders(self, root, tmp_path, key, values, message):
        with np.load(root / 'all_metadata.npz') as data:
            content = dict(data)
        np.savez(root / 'all_metadata.npz', **{**content, key: np.array(values)})
        (root.parent / 'escaped').mkdir()
        summary = convert_panst3r(root, tmp_path / 'out')
        assert [result.scene_id for result in summary.finished] == ['ffff000000']
        with pytest.raises(ValueError, match=message):
            raise ValueError(summary.failed[0].error)

    @pytest.mark.parametrize(
        ('name', 'content', 'message'),
        [
            ('all_metadata.npz', b'PK', r'all_metadata\.npz: not the metadata'),
            ('categories.json', '[{"id": 1, "name": "wall", "isthing": 0}]', 'expected ids 0, 1, 2'),
            ('categories.json', '[', r'categories\.json: not a list of classes'),
        ],
    )
    def test_damaged_tables(self, root, tmp_path, name, content, message):
        write(root / name, content)
        with pytest.raises(ValueError, match=message):
            convert_panst3r(root, tmp_path / 'out')


class TestMmdet3d:
    """A square of two triangles, 4 m before the first camera: a wall with a picture on its right half."""

    VERTICES = np.array([[-2, -2, 4], [0, -2, 4], [0, 2, 4], [-2, 2, 4], [2, -2, 4], [2, 2, 4]], np.float32)
    FACES = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 1], [5, 2, 1]])
    SEMANTIC = np.array([1, 1, 1, 1, 11, 11])
    INSTANCE = np.array([2, 2, 2, 2, 7, 7])
    ALIGNMENT = np.array([[0.0, 1, 0, 2], [-1, 0, 0, 3], [0, 0, 1, -1], [0, 0, 0, 1]])

    @pytest.fixture
    def root(self, tmp_path):
        root, scene = tmp_path / 'scannet', 'scene0000_00'
        poses = [np.eye(4), np.full((4, 4), -np.inf), np.eye(4)]
        for index, pose in enumerate(poses):
            write(root / f'posed_images/{scene}/{index:05d}.jpg', color_of(index))
            write(root / f'posed_images/{scene}/{index:05d}.txt', pose)
        write(root / f'posed_images/{scene}/intrinsic.txt', padded(INTRINSICS))
        points = np.concatenate([self.VERTICES, np.full((6, 3), 128, np.float32)], 1)
        for kind, array in (('points', points), ('semantic_mask', self.SEMANTIC), ('instance_mask', self.INSTANCE)):
            write(root / kind / f'{scene}.bin', array.tobytes())
        self.write_infos(root, old=False)
        return root

    def write_infos(self, root, *, old):
        if old:
            annos = {'gt_num': 1, 'name': np.array(['picture']), 'axis_align_matrix': self.ALIGNMENT}
            entry = {'pts_path': 'points/scene0000_00.bin', 'img_paths': ['a.jpg'], 'annos': annos}
            entry |= {'intrinsics': np.eye(4), 'extrinsics': [np.eye(4)], 'point_cloud': {'num_features': 6}}
            content = [entry]
        else:
            entry = {'lidar_points': {'num_pts_feats': 6, 'lidar_path': 'scene0000_00.bin'}}
            entry |= {'axis_align_matrix': self.ALIGNMENT.tolist(), 'instances': []}
            content = {'metainfo': {'dataset': 'scannet', 'info_version': '1.1'}, 'data_list': [entry]}
        write(root / 'scannet_infos_val.pkl', pickle.dumps(content, 2))

    def write_mesh(self, root):
        vertices = np.empty(len(self.VERTICES), 'f4, f4, f4, u1, u1, u1')
        vertices.dtype.names = ('x', 'y', 'z', 'red', 'green', 'blue')
        for axis, name in enumerate('xyz'):
            vertices[name] = self.VERTICES[:, axis]
        faces = np.empty(len(self.FACES), [('vertex_indices', 'i4', (3,))])
        faces['vertex_indices'] = self.FACES
        buffer = io.BytesIO()
        PlyData([PlyElement.describe(vertices, 'vertex'), PlyElement.describe(faces, 'face')]).write(buffer)
        write(root / 'scans/scene0000_00/scene0000_00_vh_clean_2.ply', buffer.getvalue())

    @pytest.mark.parametrize('old', [True, False])
    def test_round_trip(self, root, tmp_path, old):
        self.write_infos(root, old=old)
        assert not convert_mmdet3d_scannet(root, tmp_path / 'out').failed
        scene = read_scene(str(tmp_path / 'out/scenes/scene0000_00'))
        assert [frame.id for frame in scene.frames] == ['000000', '000002']
        assert Path(scene.frames[1].color).read_bytes() == color_of(2)
        assert np.allclose(scene.frames[0].color_intrinsics, INTRINSICS)
        assert not cv2.imread(scene.frames[0].depth, cv2.IMREAD_UNCHANGED).any()
        assert scene.frames[0].instance is None
        record = json.loads((tmp_path / 'out/scenes/scene0000_00/scene.json').read_text())
        assert record['axis_alignment'] == self.ALIGNMENT.tolist()
        assert record['report']['frames_without_pose'] == ['000001']
        assert [(i['id'], i['nyu40_id']) for i in record['instances']] == [(2, 1), (7, 11)]
        with np.load(scene.mesh) as mesh:
            assert np.array_equal(mesh['vertices'], self.VERTICES)
            assert mesh['instance'].tolist() == self.INSTANCE.tolist()
            assert mesh['faces'].shape == (0, 3)
        assert json.loads((tmp_path / 'out/val.json').read_text())['data_list'][0]['num_frames'] == 2

    def test_depth_and_instances_of_the_mesh(self, root, tmp_path):
        self.write_mesh(root)
        assert not convert_mmdet3d_scannet(root, tmp_path / 'out', rasterise=True).failed
        scene = read_scene(str(tmp_path / 'out/scenes/scene0000_00'))
        depth, instance = cv2.imread(scene.frames[0].depth, cv2.IMREAD_UNCHANGED), instance_pixels(scene, 0)
        x = 4 * (np.arange(SIZE[0]) - INTRINSICS[0, 2]) / INTRINSICS[0, 0]
        y = 4 * (np.arange(SIZE[1]) - INTRINSICS[1, 2]) / INTRINSICS[1, 1]
        inside = (np.abs(y) < 2)[:, None] & (np.abs(x) < 2)[None]
        assert np.array_equal(depth, np.where(inside, 4000, 0))
        assert np.array_equal(instance, np.where(inside, np.where(x < 0, 2, 7)[None], 0))
        with np.load(scene.mesh) as mesh:
            assert np.array_equal(mesh['faces'], self.FACES)

    def test_without_the_mesh_nothing_can_be_seen(self, root, tmp_path):
        summary = convert_mmdet3d_scannet(root, tmp_path / 'out', rasterise=True)
        assert 'scene0000_00_vh_clean_2.ply: not there' in summary.failed[0].error

    def test_changed_labels_are_converted_again(self, root, tmp_path):
        for grown, reused in ((False, False), (False, True), (True, False)):
            if grown:
                self.write_mesh(root)
            [result] = convert_mmdet3d_scannet(root, tmp_path / 'out').results
            assert result.reused == reused

    def test_masks_of_another_size(self, root, tmp_path):
        write(root / 'instance_mask/scene0000_00.bin', self.INSTANCE[:4].tobytes())
        summary = convert_mmdet3d_scannet(root, tmp_path / 'out')
        assert 'instance_mask/scene0000_00.bin: expected 6 numbers of 8 bytes' in summary.failed[0].error

    def test_classes_that_are_none(self, root, tmp_path):
        write(root / 'semantic_mask/scene0000_00.bin', np.full(6, 2**60).tobytes())
        summary = convert_mmdet3d_scannet(root, tmp_path / 'out')
        assert 'semantic_mask/scene0000_00.bin: expected NYU40 classes from 0 to 40' in summary.failed[0].error

    @pytest.mark.parametrize(
        ('content', 'message'),
        [
            (Path('a'), r'it needs pathlib.*Path, which is not allowed'),
            ({'data_list': []}, 'expected a list of scenes'),
            ([{'no': 1}], 'not a list of ScanNet scenes'),
            ([{'pts_path': 'a.bin', 'annos': {'axis_align_matrix': np.eye(3)}}], 'expected a finite 4x4 matrix'),
        ],
    )
    def test_other_pickles(self, tmp_path, content, message):
        path = tmp_path / 'scannet_infos_train.pkl'
        write(path, pickle.dumps(content))
        with pytest.raises(ValueError, match=message) as caught:
            read_infos(path)
        assert str(path) in str(caught.value)

    def test_no_infos(self, tmp_path):
        with pytest.raises(ValueError, match=r'scannet_infos_train\.pkl'):
            convert_mmdet3d_scannet(tmp_path, tmp_path / 'out')


def test_the_tool(tmp_path):
    command = [sys.executable, str(TOOL), str(tmp_path), str(tmp_path / 'out'), '--format', 'siu3r']
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert 'expected folders of scenes' in done.stderr
