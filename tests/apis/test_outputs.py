"""Outputs: files agree with the prediction, the summary with numbers computed by hand."""

import json

import numpy as np
import pytest
import trimesh
from plyfile import PlyData

from pano3d.apis import Pano3DInferencer, format_metrics, format_summary, save_outputs
from pano3d.structures import LabelSpace, SceneSample


@pytest.fixture
def label_space() -> LabelSpace:
    return LabelSpace.load('scannet20')


@pytest.fixture
def sample(config) -> SceneSample:
    """Two views of 20 x 30 pixels; in the first one a chair of 4 rows and 10 columns."""
    images = np.zeros((2, 20, 30, 3), np.uint8)
    images[0, 8:12, 10:20, 0] = 255
    return Pano3DInferencer(config)(list(images))


def test_all_files_are_written_and_agree(sample, label_space, tmp_path):
    summary = save_outputs(sample, label_space, tmp_path)
    assert json.loads((tmp_path / 'summary.json').read_text()) == summary
    assert {path.name for path in (tmp_path / 'panels').iterdir()} == {
        'scene.png',
        'view_0000_0.png',
        'view_0001_1.png',
    }
    vertices = PlyData.read(tmp_path / 'scene.ply')['vertex'].data
    assert len(vertices) == 1200 and (vertices['instance'] == 1).sum() == 40
    loaded = trimesh.load(tmp_path / 'scene.glb')
    assert {name: len(node.vertices) for name, node in loaded.geometry.items()} == {'wall': 1160, 'chair_1': 40}


def test_arrays_need_no_pickle_and_equal_the_prediction(sample, label_space, tmp_path):
    save_outputs(sample, label_space, tmp_path)
    reconstruction, panoptic = sample.pred_reconstruction, sample.pred_panoptic
    with np.load(tmp_path / 'prediction.npz', allow_pickle=False) as arrays:
        expected = {
            'images': (sample.images * 255).byte().permute(0, 2, 3, 1),
            'category': panoptic.category,
            'instance': panoptic.instance,
            'depth': reconstruction.depth,
            'points': reconstruction.points,
            'confidence': reconstruction.confidence,
            'valid': reconstruction.valid,
            'camera_to_world': reconstruction.camera_to_world,
            'intrinsics': reconstruction.intrinsics,
        }
        segments = {'segment_category': [0, 4], 'segment_instance': [0, 1], 'segment_score': [0.5, 0.9]}
        assert set(arrays) == {*expected, *segments, 'frame_ids', 'class_names'}
        for name, column in segments.items():
            assert arrays[name].tolist() == column
        for name, value in expected.items():
            np.testing.assert_array_equal(arrays[name], value.numpy())
        assert arrays['frame_ids'].tolist() == ['0', '1']
        assert tuple(arrays['class_names']) == label_space.names


def test_summary_by_hand(sample, label_space, tmp_path):
    chair, wall = save_outputs(sample, label_space, tmp_path)['segments']
    assert (chair['class'], chair['instance'], chair['score']) == ('chair', 1, 0.9)
    assert (chair['views'], chair['num_pixels']) == (['0'], 40)
    # Depth 1, focal length 10, principal point in the middle: 0.1 m per pixel, symmetric about the axis.
    np.testing.assert_allclose(chair['centroid'], [0, 0, 1], atol=1e-6)
    # Between the 2nd and the 98th percentile of 10 columns and 4 rows.
    columns, rows = np.tile(np.arange(10), 4) * 0.1, np.repeat(np.arange(4), 10) * 0.1
    np.testing.assert_allclose(
        chair['size'], [*(np.diff(np.percentile(v, (2, 98)))[0] for v in (columns, rows)), 0], atol=1e-6
    )
    assert (wall['class'], wall['instance'], wall['views'], wall['num_pixels']) == ('wall', 0, ['0', '1'], 1160)


def test_confidence_filter(sample, label_space, tmp_path):
    sample.pred_reconstruction.confidence[0] = 0.25
    summary = save_outputs(sample, label_space, tmp_path, min_confidence=0.5)
    assert summary['confidence'] == {'min': 0.25, 'median': 0.625, 'max': 1.0}
    chair = summary['segments'][0]
    assert chair['num_pixels'] == 40 and chair['centroid'] is None and chair['size'] is None
    assert len(PlyData.read(tmp_path / 'scene.ply')['vertex'].data) == 600
    assert 'chair' in format_summary(summary)


def test_no_point_left(sample, label_space, tmp_path):
    save_outputs(sample, label_space, tmp_path)
    save_outputs(sample, label_space, tmp_path, min_confidence=2.0)
    assert not (tmp_path / 'scene.glb').exists()  # nor the one of the first call


def test_cap_on_points(sample, label_space, tmp_path):
    save_outputs(sample, label_space, tmp_path, max_points=100)
    assert len(PlyData.read(tmp_path / 'scene.ply')['vertex'].data) == 100


def test_a_sample_without_prediction_is_refused(label_space, tmp_path):
    with pytest.raises(ValueError, match='pred_panoptic'):
        save_outputs(SceneSample(metainfo={'scene_id': 'x'}), label_space, tmp_path)


def test_summary_table(sample, label_space, tmp_path):
    lines = format_summary(save_outputs(sample, label_space, tmp_path)).splitlines()
    assert lines[0].split() == ['class', 'instance', 'score', 'views', 'pixels', 'size', 'x', 'y', 'z']
    assert lines[1].split()[:5] == ['chair', '1', '0.90', '1/2', '40']
    assert lines[2].split()[:5] == ['wall', '-', '0.50', '2/2', '1160']


def test_metrics_table():
    table = format_metrics({'trained': {'PQ': 0.5, 'AbsRel': 0.1}, 'baseline': {'PQ': 0.25}})
    assert table.splitlines() == [
        '|  | PQ | AbsRel |',
        '| --- | --- | --- |',
        '| trained | 0.500 | 0.100 |',
        '| baseline | 0.250 | - |',
    ]
