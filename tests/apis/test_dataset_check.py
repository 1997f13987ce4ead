"""The check of stored scenes finds what was broken on purpose, and nothing in good ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pano3d.apis.dataset_check import check_split, contact_sheet, describe
from pano3d.structures import LabelSpace

TOOL = Path(__file__).parents[2] / 'tools' / 'check_dataset.py'
SPACE = LabelSpace.load('scannet20')
SIZE = (160, 120)
FOCAL = 100.0


class Scenes:
    """Cameras that walk past a wall 2 m ahead, 0.4 m a step: 20 of 160 columns, so an overlap of 7/8."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.listed: dict[str, int] = {}

    def add(self, scene_id: str, num_frames: int = 5) -> None:
        folder = self.root / 'scenes' / scene_id
        for name in ('color', 'depth', 'instance'):
            (folder / name).mkdir(parents=True)
        width, height = SIZE
        matrix = [[FOCAL, 0, (width - 1) / 2], [0, FOCAL, (height - 1) / 2], [0, 0, 1]]
        frames = []
        for index in range(num_frames):
            files = {'color': f'color/{index}.jpg', 'depth': f'depth/{index}.png', 'instance': f'instance/{index}.png'}
            labels = np.ones((height, width), np.uint16)
            labels[:, :40] = 2
            labels[:30] = 0
            Image.new('RGB', SIZE, (200, 100, 50)).save(folder / files['color'], quality=100)
            Image.fromarray(np.full((height, width), 2000, np.uint16)).save(folder / files['depth'])
            Image.fromarray(labels).save(folder / files['instance'])
            pose = np.eye(4)
            pose[0, 3] = 0.4 * index
            sizes = {'color_size': list(SIZE), 'depth_size': list(SIZE)}
            cameras = {'color_intrinsics': matrix, 'depth_intrinsics': matrix, 'camera_to_world': pose.tolist()}
            frames.append({'id': f'{index:06d}', **files, **sizes, **cameras})
        record = {
            'format': 'pano3d-scene',
            'version': 1,
            'scene_id': scene_id,
            'source': 'own',
            'depth_scale': 0.001,
            'frames': frames,
            'instances': [{'id': 1, 'nyu40_id': 1}, {'id': 2, 'nyu40_id': 5}],
            'mesh': 'mesh.npz',
        }
        np.savez(folder / 'mesh.npz', vertices=np.array([[-3.0, -2, 2], [6.0, 2, 2.1]]))
        self.write(scene_id, record)
        self.listed[scene_id] = num_frames
        data_list = [{'scene_id': s, 'num_frames': n} for s, n in self.listed.items()]
        split = {'metainfo': {'format': 'pano3d-scenes', 'version': 1, 'split': 'train'}, 'data_list': data_list}
        (self.root / 'train.json').write_text(json.dumps(split))

    def read(self, scene_id: str) -> dict[str, Any]:
        return json.loads((self.root / 'scenes' / scene_id / 'scene.json').read_text())

    def write(self, scene_id: str, record: dict[str, Any]) -> None:
        (self.root / 'scenes' / scene_id / 'scene.json').write_text(json.dumps(record))

    def problems(self) -> list[str]:
        return [problem for check in check_split(self.root, 'train.json', SPACE) for problem in check.problems]


@pytest.fixture
def scenes(tmp_path: Path) -> Scenes:
    return Scenes(tmp_path)


def test_good_scenes(scenes: Scenes) -> None:
    scenes.add('a')
    scenes.add('b', 3)
    checks = check_split(scenes.root, 'train.json', SPACE)
    assert [check.problems for check in checks] == [[], []]
    np.testing.assert_allclose(checks[0].overlap, [7 / 8] * 4)
    assert checks[0].contradictions == [0] * 4
    shares = checks[0].pixels / checks[0].pixels.sum()
    expected = {'wall': 0.75 * 0.75, 'chair': 0.75 * 0.25}
    assert {SPACE.names[i]: shares[i] for i in np.flatnonzero(shares[:-1])} == expected
    assert shares[-1] == 0.25
    text = describe('train.json', checks, SPACE)
    assert text.splitlines()[0] == 'train.json: 2 scenes, 8 frames (3 to 5 per scene, median 4)'
    assert 'overlap of neighbours: median 0.88, least 0.88' in text
    assert 'labels in % of pixels: wall 56.2, void 25.0, chair 18.8' in text
    assert '18 classes are not in the frames looked at: floor' in text


def test_contact_sheet(scenes: Scenes) -> None:
    scenes.add('a')
    scenes.add('b', 1)
    checks = check_split(scenes.root, 'train.json', SPACE)
    sheet = contact_sheet(checks)
    assert sheet is not None
    assert sheet.size == (4 * 164, 2 * 140)
    void, chair, wall = (np.array(sheet.getpixel(at)).astype(int) for at in ((80, 30), (10, 120), (120, 120)))
    assert np.abs(void - (200, 100, 50)).max() < 4
    assert np.abs(chair - wall).max() > 20
    assert contact_sheet([]) is None


def test_one_frame_has_no_neighbour(scenes: Scenes) -> None:
    scenes.add('a', 1)
    (check,) = check_split(scenes.root, 'train.json', SPACE)
    assert (check.problems, check.overlap, len(check.pictures)) == ([], [], 1)


def test_files_that_are_missing_or_damaged(scenes: Scenes) -> None:
    scenes.add('a')
    folder = scenes.root / 'scenes' / 'a'
    (folder / 'depth' / '3.png').write_bytes(b'no image')
    (problem,) = scenes.problems()  # though it belongs to two pairs
    assert 'frame 000003' in problem and '3.png: not a readable image' in problem
    (folder / 'depth' / '3.png').unlink()
    assert scenes.problems() == [f'1 files are not there, e.g. {folder}/depth/3.png']


def test_counts(scenes: Scenes) -> None:
    scenes.add('a')
    record = scenes.read('a')
    record['frames'].pop()
    record['frames'][1]['instance'] = None
    scenes.write('a', record)
    checks = check_split(scenes.root, 'train.json', SPACE)
    assert checks[0].problems == ['the list says 5 frames, scene.json has 4']
    assert 'no instance map: 1 frames of 1 annotated scenes' in describe('train.json', checks, SPACE)


def test_ids_without_object(scenes: Scenes) -> None:
    scenes.add('a')
    record = scenes.read('a')
    record['instances'].pop()
    scenes.write('a', record)
    assert any('ids [2] that scene.json does not list' in problem for problem in scenes.problems())


def test_poses(scenes: Scenes) -> None:
    scenes.add('a')
    record = scenes.read('a')
    record['frames'][1]['camera_to_world'][0][0] = -1  # a mirror
    record['frames'][2]['camera_to_world'][1][1] = 1.1
    record['frames'][3]['camera_to_world'][2][3] = -40
    scenes.write('a', record)
    problems = scenes.problems()
    assert problems[0] == '2 frames have a pose that is no rotation, e.g. 000001, 000002'
    assert problems[1] == '1 frames are more than 2 m outside the mesh, e.g. 000003'


def test_wrong_depth_unit_shows_in_the_geometry(scenes: Scenes) -> None:
    """Two cameras face each other across a room of 4 m; with twice the depth each sees through the other's wall."""
    scenes.add('a', 2)
    record = scenes.read('a')
    record['mesh'] = None
    record['frames'][1]['camera_to_world'] = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, -1], [0, 0, 0, 1]]
    scenes.write('a', record)
    depth = scenes.root / 'scenes' / 'a' / 'depth' / '1.png'
    Image.fromarray(np.full(SIZE[::-1], 3000, np.uint16)).save(depth)
    assert scenes.problems() == [], 'a metre back, a metre further'
    Image.fromarray(np.full(SIZE[::-1], 6000, np.uint16)).save(depth)
    assert [problem.split(':')[0] for problem in scenes.problems()] == ['depth and poses contradict each other']


def test_depth_without_any_value(scenes: Scenes) -> None:
    """A scan without depth is fine; one that has lost some is not."""
    scenes.add('a', 3)
    nothing = Image.fromarray(np.zeros(SIZE[::-1], np.uint16))
    nothing.save(scenes.root / 'scenes' / 'a' / 'depth' / '0.png')
    assert scenes.problems() == ['1 of 2 frames have no depth at all']
    nothing.save(scenes.root / 'scenes' / 'a' / 'depth' / '1.png')
    checks = check_split(scenes.root, 'train.json', SPACE)
    assert checks[0].problems == []
    assert '  no depth: 1 scenes' in describe('train.json', checks, SPACE).splitlines()


def test_objects_that_are_numbered_in_each_image_anew(scenes: Scenes) -> None:
    """Their samples have one view; overlap is unknown then."""
    scenes.add('a')
    scenes.write('a', {**scenes.read('a'), 'instances_across_views': False})
    (check,) = check_split(scenes.root, 'train.json', SPACE)
    assert (check.problems, len(check.pictures), check.overlap) == ([], 4, [])


def test_units(scenes: Scenes) -> None:
    scenes.add('a')
    record = scenes.read('a')
    scenes.write('a', {**record, 'depth_scale': 1.0})
    assert 'the depth is 2000 m in the median; look at `depth_scale`, which is metres per unit' in scenes.problems()
    for index, frame in enumerate(record['frames']):
        frame['camera_to_world'][0][3] = 400.0 * index  # millimetres
    scenes.write('a', {**record, 'mesh': None})
    assert [problem.split(';')[0] for problem in scenes.problems()] == ['neighbouring frames see 0 % of each other']


def test_records_that_contradict_the_rest(scenes: Scenes) -> None:
    scenes.add('a')
    record = scenes.read('a')
    scenes.write('a', {**record, 'scene_id': 'b', 'instances': [{'id': 1}, {'id': 2, 'scannet_id': 2}]})
    assert scenes.problems() == [
        "scene.json is of scene 'b'; expected the name of its folder",
        'none of 2 instances has `nyu40_id`, by which classes are found',
    ]
    scenes.write('a', {**record, 'frames': []})
    assert scenes.problems() == ['scene.json has no frames']


def test_a_scene_that_is_not_there(scenes: Scenes) -> None:
    scenes.add('a')
    (scenes.root / 'scenes' / 'a' / 'scene.json').unlink()
    (problem,) = scenes.problems()
    assert 'scene.json: cannot be read' in problem


@pytest.mark.slow
def test_tool(scenes: Scenes) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(TOOL), str(scenes.root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert run().returncode == 2
    scenes.add('a')
    done = run('--out', str(scenes.root / 'sheets'))
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout.startswith('train.json: 1 scenes, 5 frames')
    assert Image.open(scenes.root / 'sheets' / 'train.png').size == (4 * 164, 140)
    (scenes.root / 'scenes' / 'a' / 'color' / '0.jpg').unlink()
    assert run().returncode == 1
