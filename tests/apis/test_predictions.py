"""Predictions in files: what is written is read back, in any order of views and classes, and mistakes are named."""

from __future__ import annotations

import io
import os
import zipfile
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import tiny_scenes
import torch

from pano3d.apis import SavedPredictions, empty_prediction, prediction_file, read_prediction, write_prediction
from pano3d.apis.prediction_file import find_predictions
from pano3d.structures import LabelSpace, SceneSample

SPACE = LabelSpace.load('scannet20')


@pytest.fixture
def truth(tmp_path) -> SceneSample:
    return tiny_scenes.ground_truth(7, tmp_path / 'meshes', SPACE)


@pytest.fixture
def predicted(truth) -> SceneSample:
    """With void, scores and invalid pixels."""
    sample = tiny_scenes.as_predicted(truth)
    sample.pred_panoptic.category[0, :10, :12] = -1
    sample.pred_panoptic.instance[0, :10, :12] = 0
    sample.pred_semantic = (
        torch.rand(sample.pred_semantic.shape, generator=torch.Generator().manual_seed(0)).half().float()
    )
    sample.pred_segments = [{**s, 'score': 0.1 + s['category'] / 30} for s in sample.pred_segments]
    sample.pred_reconstruction.valid[1, 5, 6] = False
    return sample


@pytest.fixture
def file(predicted, tmp_path) -> Path:
    path = tmp_path / 'predictions' / 'scene0007_00.npz'
    write_prediction(predicted, SPACE, path)
    return path


def change(file: Path, **arrays: np.ndarray | None) -> Path:
    with np.load(file, allow_pickle=False) as found:
        merged = {**dict(found), **arrays}
    np.savez(file, **{name: array for name, array in merged.items() if array is not None})
    return file


def load(file: Path) -> dict[str, np.ndarray]:
    with np.load(file, allow_pickle=False) as found:
        return dict(found)


def assert_same(read: SceneSample, expected: SceneSample) -> None:
    for name in ('category', 'instance'):
        assert torch.equal(getattr(read.pred_panoptic, name), getattr(expected.pred_panoptic, name))
    assert read.pred_segments == expected.pred_segments
    assert read.pred_semantic.dtype == torch.float16  # as stored
    assert torch.equal(read.pred_semantic.float(), expected.pred_semantic)
    for field in fields(expected.pred_reconstruction):
        wanted = getattr(expected.pred_reconstruction, field.name)
        torch.testing.assert_close(getattr(read.pred_reconstruction, field.name), wanted, rtol=0, atol=1e-6)


def test_what_is_written_is_read(file, truth, predicted):
    read = read_prediction(file, truth, SPACE)
    assert_same(read, predicted)
    assert 'pred_panoptic' not in truth
    assert read.scene_id == 'scene0007_00'
    assert not list(file.parent.glob('*.tmp'))


def test_views_and_classes_may_come_in_any_order(file, truth, predicted):
    arrays = load(file)
    views, classes = [2, 0, 1], np.random.default_rng(0).permutation(20)
    place = np.append(np.argsort(classes), -1)
    by_view = ('category', 'instance', 'semantic', 'depth', 'points', 'confidence', 'valid', 'camera_to_world')
    shuffled = {name: arrays[name][views] for name in (*by_view, 'intrinsics', 'frame_ids')}
    shuffled |= {'category': place[shuffled['category']], 'segment_category': place[arrays['segment_category']]}
    shuffled |= {'class_names': arrays['class_names'][classes], 'semantic': shuffled['semantic'][:, classes]}
    assert not np.array_equal(shuffled['category'], arrays['category'])
    assert_same(read_prediction(change(file, **shuffled), truth, SPACE), predicted)


def test_more_views_than_needed_are_left_out(file, truth, predicted):
    arrays = load(file)
    more = {name: np.concatenate([array[:1], array]) for name, array in arrays.items() if len(array) == 3}
    more['frame_ids'] = np.array(['000999', *arrays['frame_ids']])
    assert len(more) == 10
    assert_same(read_prediction(change(file, **more), truth, SPACE), predicted)


def test_only_labels_are_needed(file, truth, predicted):
    arrays = load(file)
    np.savez(file, category=arrays['category'], instance=arrays['instance'])
    read = read_prediction(file, truth, SPACE)
    assert torch.equal(read.pred_panoptic.category, predicted.pred_panoptic.category)
    assert 'pred_reconstruction' not in read
    assert {(s['category'], s['instance'], s['score']) for s in read.pred_segments} == {
        (s['category'], s['instance'], 1.0) for s in predicted.pred_segments
    }
    # 1 for the category, nothing where it is void
    assert torch.equal(read.pred_semantic.sum(1), (predicted.pred_panoptic.category >= 0).float())
    assert torch.equal(read.pred_semantic[1].argmax(0), predicted.pred_panoptic.category[1])


def test_depth_and_cameras_give_the_points(file, truth, predicted):
    change(file, points=None, confidence=None, valid=None)
    read = read_prediction(file, truth, SPACE).pred_reconstruction
    torch.testing.assert_close(read.points, predicted.pred_reconstruction.points)
    assert read.valid.all() and (read.confidence == 1).all()


def test_a_file_of_the_inference_tool_can_be_read(predicted, truth, tmp_path):
    from pano3d.apis import save_outputs

    save_outputs(predicted, SPACE, tmp_path / 'inferred' / 'scene0007_00')
    files = find_predictions(tmp_path / 'inferred')
    read = read_prediction(files['scene0007_00'], truth, SPACE)
    assert torch.equal(read.pred_panoptic.instance, predicted.pred_panoptic.instance)
    assert read.pred_segments == predicted.pred_segments


def test_masks_that_overlap(file, truth):
    masks = np.zeros((2, *tiny_scenes.SIZE), bool)
    masks[:, 0, :5, :5] = True
    change(file, proposal_masks=masks, proposal_category=np.array([2, 4]), proposal_score=np.array([0.5, 0.25]))
    proposals = read_prediction(file, truth, SPACE).pred_proposals
    assert proposals.masks.sum().item() == 50 and proposals.category.tolist() == [2, 4]
    assert proposals.score.tolist() == [0.5, 0.25]


def spoilt(array: np.ndarray, value: float) -> np.ndarray:
    """A copy with `value` at one pixel of view 1 (or in one place of its pose)."""
    result = array.copy()
    result[1, 2, 3] = value
    return result


MISTAKES = {
    'smaller': (
        lambda a: {'category': a['category'][:, ::2]},
        r'`category` must have shape \(3, 40, 60\).*\(3, 20, 60\); resize',
    ),
    'views': (lambda a: {'frame_ids': np.array(['000000', '000020', '7'])}, r"`frame_ids` lacks \['000040'\]"),
    'fewer': (lambda a: {'depth': a['depth'][:1]}, r'`depth` must have shape \(3, 40, 60\).*\(1, 40, 60\)'),
    'unknown id': (
        lambda a: {'category': spoilt(a['category'], 20)},
        r'categories must lie in \[-1, 19\].* unknown ids \[20\]',
    ),
    'unknown class': (
        lambda a: {'class_names': np.array(['wall', 'dragon'])},
        r"`class_names` has \['dragon'\].*'scannet20'",
    ),
    'negative': (lambda a: {'instance': a['instance'] - 5}, '`instance` must be >= 0'),
    'nan depth': (
        lambda a: {'depth': spoilt(a['depth'], np.nan)},
        '`depth` is not finite at 1 pixels, the first in view 1; .*`valid`',
    ),
    'pose': (lambda a: {'camera_to_world': spoilt(a['camera_to_world'], np.inf)}, '`camera_to_world` is not finite'),
    'half a geometry': (lambda a: {'intrinsics': None}, 'array `intrinsics` is missing'),
    'no labels': (lambda a: {'instance': None}, 'array `instance` is missing.*docs/predictions.md'),
    'kind': (lambda a: {'category': a['category'].astype(float)}, '`category` must be integer .*float64'),
    'scores': (lambda a: {'segment_score': np.ones(3)}, r'`segment_category` must have shape \(3\)'),
    'scores that are nan': (
        lambda a: {'segment_score': a['segment_score'] * np.nan},
        '`segment_score` is not finite at 20 segments',
    ),
    'views twice': (
        lambda a: {'frame_ids': np.array(['000000', '000020', '000020'])},
        r"`frame_ids` has \['000020'\] more than once",
    ),
    'names that are numbers': (lambda a: {'class_names': np.arange(20)}, r'`class_names` must be text .*int64 \(20,\)'),
    'more classes': (
        lambda a: {'semantic': np.repeat(a['semantic'], 2, axis=1)},
        r'unknown ids \[20, 21, 22, 23, 24\]',
    ),
    'infinite points': (lambda a: {'points': spoilt(a['points'], np.inf)}, '`points` is not finite at 1 pixels'),
    'infinite confidence': (lambda a: {'confidence': a['confidence'] * np.inf}, '`confidence` is not finite'),
    'objects as names': (lambda a: {'frame_ids': a['frame_ids'].astype(object)}, 'objects are not unpickled'),
    'pickle': (lambda a: {'category': np.array([None, {}], dtype=object)}, 'plain arrays'),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_a_mistake_names_file_scene_and_what_is_wrong(name, file, truth):
    mistake, message = MISTAKES[name]
    change(file, **mistake(load(file)))
    with pytest.raises(ValueError, match=rf'scene0007_00\.npz: scene scene0007_00: .*{message}'):
        read_prediction(file, truth, SPACE)


def test_a_damaged_file_is_one_clear_error(file, truth):
    for content in (b'', b'PK\x03\x04 no zip', file.read_bytes()[:2000]):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r'scene0007_00\.npz: scene scene0007_00: '):
            read_prediction(file, truth, SPACE)


class Bomb:
    """Would leave a file behind if anybody unpickled it."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.path, 'w')


def test_nothing_is_unpickled_whatever_the_array_is_called(file, truth, tmp_path):
    whole = file.read_bytes()
    for name in ('category', 'frame_ids', 'semantic', 'a stranger'):
        np.savez(file, **{**load(file), name: np.array([Bomb(tmp_path / 'exploded')], dtype=object)}, allow_pickle=True)
        if name == 'a stranger':  # is not even looked at
            read_prediction(file, truth, SPACE)
        else:
            with pytest.raises(ValueError, match=f'found `{name}` of type object, whose objects are not unpickled'):
                read_prediction(file, truth, SPACE)
        file.write_bytes(whole)
    assert not (tmp_path / 'exploded').exists()


def with_header(file: Path, name: str, shape: tuple[int, ...], content: bytes) -> Path:
    """The file with an int16 array of which the header claims any shape."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {'descr': '<i2', 'fortran_order': False, 'shape': shape})
    arrays = load(file)
    del arrays[name]
    np.savez(file, **arrays)
    with zipfile.ZipFile(file, 'a', zipfile.ZIP_DEFLATED) as archive, archive.open(f'{name}.npy', 'w') as member:
        member.write(header.getvalue())
        member.write(content)
    return file


def test_a_header_that_lies_is_refused_before_memory_is_taken(file, truth):
    whole = file.read_bytes()
    for shape, content in (((10**6, 10**6), b''), ((3, 40, 60), bytes(100)), ((3, 40, 60), bytes(20000))):
        with pytest.raises(ValueError, match=r'found `category` of \d+ bytes, its header claims \d+ for the shape'):
            read_prediction(with_header(file, 'category', shape, content), truth, SPACE)
        file.write_bytes(whole)


def test_a_file_that_would_fill_the_memory_is_refused(file, truth, monkeypatch):
    with_header(file, 'category', (10_000, 40, 60), bytes(48_000_000))
    assert file.stat().st_size < 1_000_000
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    monkeypatch.setattr(prediction_file, 'SHARE_OF_MEMORY', 40e6 / memory)
    with pytest.raises(ValueError, match=r'its arrays would take 0\.0 GB, more than 0\.0 GB.*`semantic` in float16'):
        read_prediction(file, truth, SPACE)


def test_unsigned_labels_are_understood(file, truth, predicted):
    arrays = load(file)
    category = np.where(arrays['category'] < 0, 0, arrays['category'])
    change(file, category=category.astype(np.uint16), instance=arrays['instance'].astype(np.uint8))
    read = read_prediction(file, truth, SPACE).pred_panoptic
    assert torch.equal(read.category, predicted.pred_panoptic.category.clamp_min(0))


def test_unknown_depth_may_be_anything_where_it_is_not_valid(file, truth):
    arrays = load(file)
    arrays['depth'][0, 0, 0] = arrays['points'][0, 0, 0, 0] = np.nan
    arrays['valid'][0, 0, 0] = False
    read = read_prediction(change(file, **arrays), truth, SPACE).pred_reconstruction
    assert read.depth.isfinite().all() and read.points.isfinite().all() and not read.valid[0, 0, 0]


def test_an_empty_prediction_is_void(truth):
    empty = empty_prediction(truth, SPACE)
    assert (empty.pred_panoptic.category == -1).all() and empty.pred_segments == []
    assert not empty.pred_semantic.any() and 'pred_reconstruction' not in empty and 'note' not in truth


def test_one_prediction_per_scene(file, tmp_path):
    (file.parent / 'scene0007_00').mkdir()
    (file.parent / 'scene0007_00' / 'prediction.npz').write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match='two predictions of scene scene0007_00'):
        SavedPredictions(folder=file.parent, label_space=SPACE)
    with pytest.raises(ValueError, match=r"`missing_scenes` must be one of .*'guess'"):
        SavedPredictions(folder=file.parent, label_space=SPACE, missing_scenes='guess')
