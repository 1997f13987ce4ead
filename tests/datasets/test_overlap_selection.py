"""Oracles: brute force over small graphs, tables by hand, and the guarantees themselves."""

from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest

from pano3d.datasets import OverlapTable, OverlapViews, SplitKeyframes, read_scene
from pano3d.datasets.transforms import PackScene
from pano3d.datasets.transforms.overlap_selection import choose_keyframes

# A chain 0-1-2-3, a pair 4-5, and 6 that sees much of 0 while 0 sees little of it.
CHAIN = np.eye(7, dtype=np.float32)
for i, j in ((0, 1), (1, 2), (2, 3), (4, 5)):
    CHAIN[i, j] = CHAIN[j, i] = 0.5
CHAIN[6, 0], CHAIN[0, 6] = 0.9, 0.1


@pytest.fixture
def scene(tmp_path):
    frames = tuple(SimpleNamespace(id=f'{20 * index:06d}') for index in range(len(CHAIN)))
    found = SimpleNamespace(scene_id='scene0000_00', frames=frames, overlap=str(tmp_path / 'overlap.npz'))
    OverlapTable(tuple(frame.id for frame in frames), CHAIN).write(found.overlap)
    return found


def start(scene, seed=0, **more):
    return {'scene': scene, 'rng': np.random.default_rng(seed), 'backend_args': None, **more}


def chosen(transform, scene, seed):
    return tuple(scene.frames.index(view) for view in transform(start(scene, seed))['views'])


def connected(frames, linked):
    reached = {frames[0]}
    while more := {b for a in reached for b in frames if linked[a, b]} - reached:
        reached |= more
    return reached == set(frames)


@pytest.mark.parametrize(('num_views', 'min_overlap'), [(1, 0.3), (2, 0.3), (3, 0.3), (4, 0.3), (3, 0.05)])
def test_reaches_exactly_the_connected_sets(scene, num_views, min_overlap):
    linked = np.minimum(CHAIN, CHAIN.T) >= min_overlap
    legal = {frames for frames in combinations(range(7), num_views) if connected(frames, linked)}
    found = {chosen(OverlapViews(num_views=num_views, min_overlap=min_overlap), scene, seed) for seed in range(400)}
    assert found == legal
    assert len(legal) > 0


def test_views_that_are_too_alike_are_no_neighbours(scene):
    found = {chosen(OverlapViews(num_views=2, min_overlap=0.05, max_overlap=0.4), scene, seed) for seed in range(50)}
    assert found == {(0, 6)}


def test_a_scene_that_does_not_hang_together_gives_neighbours_and_says_so_once(scene, monkeypatch):
    said = []
    monkeypatch.setattr('pano3d.datasets.transforms.overlap_selection.print_log', lambda text, **_: said.append(text))
    transform = OverlapViews(num_views=5, min_overlap=0.3)
    found = {chosen(transform, scene, seed) for seed in range(50)}
    assert found == {(0, 1, 2, 3, 4), (1, 2, 3, 4, 5), (2, 3, 4, 5, 6)}
    assert len(said) == 1
    assert 'scene0000_00: at most 4 frames hang together' in said[0]


def test_a_scene_with_too_few_frames_is_refused(scene):
    with pytest.raises(ValueError, match=r'scene0000_00: 8 views are asked for, but it has 7 frames'):
        OverlapViews(num_views=8, min_overlap=0.3)(start(scene))


@pytest.mark.parametrize('seed', range(20))
def test_every_view_overlaps_a_keyframe(scene, seed):
    order = np.random.default_rng(seed + 100).permutation(7)
    views = [scene.frames[index] for index in order]
    result = SplitKeyframes(num_keyframes=(1, 4), min_overlap=0.3)(start(scene, seed, views=views))
    keyframes = result['keyframes']
    assert keyframes[0]
    for index in order:
        assert max(CHAIN[index, other] for other, key in zip(order, keyframes, strict=True) if key) >= 0.3


@pytest.mark.parametrize('asked', [1, 2, 3, 5, 7, (5, 6)])
def test_no_more_keyframes_than_asked_for_or_needed(scene, asked):
    """0 covers 1 and 6; one of 4, 5 covers the other; 2 or 3 covers the rest: three are needed."""
    found = set()
    for seed in range(20):
        split = SplitKeyframes(num_keyframes=asked, min_overlap=0.3)
        found.add(int(split(start(scene, seed, views=list(scene.frames)))['keyframes'].sum()))
    assert found == ({5, 6} if asked == (5, 6) else {max(asked, 3)})


def test_views_that_overlap_nothing_are_keyframes():
    assert choose_keyframes(np.eye(4, dtype=bool), 1, np.random.default_rng(0)).all()
    blind = np.zeros((4, 4), bool)  # no view has depth: none sees even itself
    assert choose_keyframes(blind, 2, np.random.default_rng(0)).all()


def test_greedy_choice_against_brute_force():
    rng = np.random.default_rng(3)
    for _ in range(30):
        sees = rng.random((6, 6)) < 0.25
        sees |= np.eye(6, dtype=bool)
        left = {k: (~sees[:, [0, k]].any(1)).sum() for k in range(1, 6)}
        chosen = choose_keyframes(sees, 2, np.random.default_rng(0))
        assert not (~sees[:, chosen].any(1)).any()
        if min(left.values()) == 0:
            assert chosen.sum() == 2, 'one more is enough, and the greedy choice finds it'


def test_more_keyframes_than_views(scene):
    result = SplitKeyframes(num_keyframes=9)(start(scene, views=list(scene.frames[:3])))
    assert result['keyframes'].all()


def test_table_survives_the_file(scene):
    table = OverlapTable.read(scene)
    assert np.abs(table.shares - CHAIN).max() < 1e-3
    views = [scene.frames[3], scene.frames[2], scene.frames[0]]
    assert np.abs(table.among(views) - CHAIN[np.ix_([3, 2, 0], [3, 2, 0])]).max() < 1e-3


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda path: path.unlink(), 'cannot be read .* tools/measure_overlap.py'),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), 'not a table of overlaps'),
        (lambda path: np.savez(path, overlap=CHAIN), 'not a table of overlaps'),
        (lambda path: np.savez(path, overlap=CHAIN, frame_ids=np.array([{}], object)), 'not a table of overlaps'),
        (lambda path: OverlapTable(('a',), CHAIN[:1, :1]).write(path), 'expected the 7 frames of scene scene0000_00'),
    ],
)
def test_a_damaged_table_is_named(scene, tmp_path, damage, message):
    damage(tmp_path / 'overlap.npz')
    with pytest.raises((FileNotFoundError, ValueError), match=message) as caught:
        OverlapTable.read(scene)
    assert scene.overlap in str(caught.value)


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda: OverlapViews(num_views=0), 'num_views'),
        (lambda: OverlapViews(num_views=2, min_overlap=0.5, max_overlap=0.4), 'max_overlap'),
        (lambda: SplitKeyframes(num_keyframes=(3, 2)), 'least first'),
        (lambda: SplitKeyframes(num_keyframes=2, min_overlap=0), 'min_overlap'),
        (lambda: SplitKeyframes(num_keyframes=2)({'scene': None}), 'needs `views`'),
    ],
)
def test_refuses_nonsense(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_the_sample_carries_the_split(data_root):
    from pano3d.apis.scene_overlap import overlap_of
    from pano3d.datasets import LoadViews, ResizeCrop
    from pano3d.structures import LabelSpace

    scene = read_scene(str(data_root / 'scenes' / 'scene0002_00'))
    shares = overlap_of(scene).among(scene.frames)
    results = start(scene, views=list(scene.frames), label_space=LabelSpace.load('scannet20'))
    results |= {'keyframes': np.array([True, False, True])}
    for step in (LoadViews(), ResizeCrop(size=(24, 32)), PackScene()):
        results = step(results)
    assert results['data_samples'].keyframes == [True, False, True]
    assert shares.shape == (3, 3)
