"""Oracles: enumeration of all legal choices, and numbers computed by hand."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.config import Config

from pano3d.datasets import AllViews, LinspaceViews, ListedViews, RandomStrideViews, ShuffleViews, StrideViews
from pano3d.registry import TRANSFORMS

SELECTIONS = Path(__file__).parents[2] / 'configs' / '_base_' / 'datasets' / 'evaluation_views.py'


def scene(length):
    return SimpleNamespace(scene_id='scene0000_00', frames=tuple(range(length)))


def choose(transform, length, seed=0):
    return transform({'scene': scene(length), 'rng': np.random.default_rng(seed)})['views']


@pytest.mark.parametrize(
    ('num_views', 'max_stride', 'length'), [(4, 4, 20), (4, 4, 8), (4, 2, 20), (4, 4, 4), (1, 4, 3), (2, 9, 4)]
)
def test_random_stride_reaches_exactly_the_legal_choices(num_views, max_stride, length):
    legal = {
        tuple(range(start, length, stride))[:num_views]
        for stride in range(1, max_stride + 1)
        for start in range(length)
        if start + (num_views - 1) * stride < length
    }
    transform = RandomStrideViews(num_views=num_views, max_stride=max_stride)
    drawn = Counter(tuple(choose(transform, length, seed)) for seed in range(60 * len(legal)))
    assert set(drawn) == legal


def test_every_stride_is_as_likely():
    """Not every (start, stride): short strides have more starts."""
    transform = RandomStrideViews(num_views=5, max_stride=4)
    views = [choose(transform, 18, seed) for seed in range(2000)]
    counts = Counter(second - first for first, second, *_ in views)
    # 500 expected of each; the standard deviation is 19.
    assert set(counts) == {1, 2, 3, 4}
    assert all(abs(count - 500) < 100 for count in counts.values())


def test_too_short_a_scene():
    with pytest.raises(ValueError, match=r'scene scene0000_00 has 3 frames, 4 views .* `min_frames=4`'):
        choose(RandomStrideViews(num_views=4), 3)


@pytest.mark.parametrize(
    ('num_views', 'length', 'expected'),
    [
        (3, 11, [0, 5, 10]),
        (4, 11, [0, 3, 6, 10]),  # 3.33 and 6.67, rounded down
        (5, 5, [0, 1, 2, 3, 4]),
        (20, 3, [0, 1, 2]),
        (1, 7, [0]),
    ],
)
def test_linspace(num_views, length, expected):
    transform = LinspaceViews(num_views=num_views)
    assert choose(transform, length, seed=0) == choose(transform, length, seed=1) == expected


@pytest.mark.parametrize('length', range(1, 60))
def test_linspace_never_repeats(length):
    views = choose(LinspaceViews(num_views=20), length)
    assert len(set(views)) == len(views) == min(20, length)


def test_shuffle_permutes_and_leaves_its_input():
    views = list(range(6))
    orders = set()
    for seed in range(50):
        shuffled = ShuffleViews()({'views': views, 'rng': np.random.default_rng(seed)})['views']
        assert sorted(shuffled) == views == list(range(6))
        orders.add(tuple(shuffled))
    assert len(orders) > 40
    assert {order[0] for order in orders} == set(range(6)), 'any view may become the reference'


@pytest.mark.parametrize('arguments', [{'num_views': 0}, {'num_views': 3, 'max_stride': 0}])
def test_refuses_nonsense(arguments):
    with pytest.raises(ValueError, match='must be positive'):
        RandomStrideViews(**arguments)


@pytest.mark.parametrize('before', ['color', 'keyframes'])
def test_shuffling_late_would_mix_up_the_views(before):
    with pytest.raises(ValueError, match='before LoadViews and SplitKeyframes'):
        ShuffleViews()({'views': [1, 2], 'rng': np.random.default_rng(0), before: []})


class TestStrideViews:
    def chosen(self, stride, numbers, frame_skip=1):
        frames = tuple(SimpleNamespace(id=f'{number:06d}') for number in numbers)
        scene = SimpleNamespace(scene_id='a', frames=frames, frame_skip=frame_skip)
        return [int(view.id) for view in StrideViews(stride=stride)({'scene': scene})['views']]

    def test_multiples_of_the_stride(self):
        assert self.chosen(20, range(70)) == [0, 20, 40, 60]
        assert self.chosen(20, range(0, 90, 10), frame_skip=10) == [0, 20, 40, 60, 80]
        assert self.chosen(20, range(0, 90, 20), frame_skip=20) == [0, 20, 40, 60, 80]
        assert self.chosen(1, range(3)) == [0, 1, 2]

    def test_frames_without_a_pose_do_not_move_the_others(self):
        assert self.chosen(20, [3, 7, 40, 41, 60, 79]) == [40, 60]

    @pytest.mark.parametrize(
        ('stride', 'numbers', 'frame_skip'), [(20, range(0, 90, 15), 15), (20, range(0, 90, 40), 40), (20, [1, 2], 1)]
    )
    def test_frames_that_were_not_converted(self, stride, numbers, frame_skip):
        with pytest.raises(
            ValueError, match=f'scene a was converted with `--frame-skip {frame_skip}`.*`--frame-skip 20`'
        ):
            self.chosen(stride, numbers, frame_skip)

    def test_ids_that_are_no_numbers(self):
        scene = SimpleNamespace(scene_id='a', frames=(SimpleNamespace(id='DSC00012'),), frame_skip=1)
        with pytest.raises(ValueError, match=r'scene a: frame ids must be numbers.*DSC00012.*use ListedViews'):
            StrideViews(stride=20)({'scene': scene})

    def test_refuses_nonsense(self):
        with pytest.raises(ValueError, match='`stride` must be positive, got 0'):
            StrideViews(stride=0)


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('linspace_20', [0, 10, 20, 31, 41, 52, 62, 73, 83, 94, 104, 115, 125, 136, 146, 157, 167, 178, 188, 199]),
        ('every_frame', list(range(200))),
        ('every_20th', list(range(0, 200, 20))),
    ],
)
def test_the_named_selections(name, expected):
    selection = Config.fromfile(SELECTIONS).evaluation_views[name]
    frames = tuple(SimpleNamespace(id=f'{number:06d}') for number in range(200))
    scene = SimpleNamespace(scene_id='a', frames=frames, frame_skip=1)
    assert [int(view.id) for view in TRANSFORMS.build(selection)({'scene': scene})['views']] == expected


class TestFixedLists:
    FRAMES = tuple(SimpleNamespace(id=f'{20 * index:06d}') for index in range(5))

    def results(self, scene_id='scene0011_00'):
        return {'scene': SimpleNamespace(scene_id=scene_id, frames=self.FRAMES), 'backend_args': None}

    def write(self, tmp_path, **changes):
        record = {'format': 'pano3d-views', 'version': 1, 'views': {'scene0011_00': [['000060', '000000']]}, **changes}
        path = tmp_path / 'views.json'
        path.write_text(json.dumps(record))
        return ListedViews(path=str(path))

    def test_all_views(self):
        assert AllViews()(self.results())['views'] == list(self.FRAMES)

    def test_views_come_in_the_order_of_the_file(self, tmp_path):
        assert self.write(tmp_path)(self.results())['views'] == [self.FRAMES[3], self.FRAMES[0]]

    def test_unlisted_scenes_and_strange_frames_are_named(self, tmp_path):
        with pytest.raises(ValueError, match='no views of scene scene0012_00; it lists 1 scenes'):
            self.write(tmp_path)(self.results('scene0012_00'))
        with pytest.raises(ValueError, match=r"scene scene0011_00 has no frames \['000030'\] among its 5"):
            self.write(tmp_path, views={'scene0011_00': [['000000', '000030']]})(self.results())

    @pytest.mark.parametrize(
        'changes',
        [
            {'format': 'pano3d-scenes'},
            {'version': 2},
            {'views': []},
            {'views': {'scene0011_00': []}},
            {'views': {'scene0011_00': [[]]}},
            {'views': {'scene0011_00': ['000000']}},
            {'views': {'scene0011_00': [['000000', '000000']]}},
            {'views': {'scene0011_00': [['000000'], [0]]}},
            {'views': {'scene0011_00': '000000'}},
        ],
    )
    def test_a_file_of_another_kind(self, tmp_path, changes):
        with pytest.raises(ValueError, match=r'views.json: not a list of views'):
            self.write(tmp_path, **changes)(self.results())

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r'nothing\.json'):
            ListedViews(path=str(tmp_path / 'nothing.json'))(self.results())
