"""Ground truth of views, from the raw release to tensors, against an independent rasteriser of the annotated mesh."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from pano3d.conversion import convert_scannet
from pano3d.datasets import ScanNetMultiViewDataset
from pano3d.structures import LabelSpace, SceneSample


@pytest.fixture(scope='module')
def converted(raw_formats: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp('converted')
    convert_scannet(raw_formats / 'scannet', out, frame_skip=1, num_workers=1)
    return out


@pytest.fixture(scope='module')
def expected(raw_formats: Path) -> dict[str, dict[int, dict[str, np.ndarray]]]:
    """Per scene and frame: what the rasteriser sees from the colour camera."""
    scenes = {}
    for path in sorted((raw_formats / 'expected' / 'scannet').glob('*.npz')):
        frames: dict[int, dict[str, np.ndarray]] = {}
        with np.load(path) as arrays:
            for key in arrays:
                if match := re.fullmatch(r'raster_color_(\d+)_(\w+)', key):
                    frames.setdefault(int(match[1]), {})[match[2]] = arrays[key]
        if frames:
            scenes[path.stem] = frames
    assert scenes, 'no rasterised views found'
    return scenes


def load(root: Path, label_space: str, frames_of: dict[str, list[int]]) -> dict[str, SceneSample]:
    """The given frames of each annotated scene, in the size of their colour image."""

    def choose(results: dict) -> dict:
        wanted = frames_of[results['scene'].scene_id]
        return {**results, 'views': [frame for frame in results['scene'].frames if int(frame.id) in wanted]}

    samples = {}
    for split in ('train', 'val'):
        plain = ScanNetMultiViewDataset(data_root=str(root), ann_file=f'{split}.json', label_space=label_space)
        for index in range(len(plain)):
            scene = plain.get_data_info(index)['scene']
            if scene.scene_id in frames_of:
                steps = [
                    choose,
                    {'type': 'LoadViews'},
                    {'type': 'ResizeCrop', 'size': scene.frames[0].color_size[::-1]},
                    {'type': 'PackScene'},
                ]
                dataset = ScanNetMultiViewDataset(
                    data_root=str(root), ann_file=f'{split}.json', label_space=label_space, pipeline=steps
                )
                samples[scene.scene_id] = dataset[index]['data_samples'].unpacked().unpacked()
    return samples


@pytest.mark.parametrize(('label_space', 'ids'), [('scannet20', 'nyu40'), ('scannet200', 'scannet200')])
def test_labels_and_depth_are_what_the_camera_sees(converted, expected, label_space, ids):
    samples = load(converted, label_space, {scene: list(frames) for scene, frames in expected.items()})
    assert samples
    space = LabelSpace.load(label_space)
    category_of = np.full(2000, -1)
    category_of[list(space.source_ids)] = np.arange(space.num_classes)
    is_thing = ~np.append(space.is_stuff.numpy(), True)  # the last entry is void's
    for scene_id, sample in samples.items():
        assert len(sample.frame_ids) == len(expected[scene_id])
        for view, frame_id in enumerate(sample.frame_ids):
            truth = expected[scene_id][int(frame_id)]
            category, instance = (getattr(sample.gt_panoptic, k)[view].numpy() for k in ('category', 'instance'))
            # The official label images leave pixels without sensor depth empty; the rasteriser knows them.
            known = truth['stable'] & (category >= 0)
            assert known.mean() >= 0.3 * np.mean(category_of[truth[ids]] >= 0)
            np.testing.assert_array_equal(category[known], category_of[truth[ids]][known])
            np.testing.assert_array_equal(
                instance[known], np.where(is_thing[category_of[truth[ids]]], truth['instance'], 0)[known]
            )
            depth, valid = sample.gt_reconstruction.depth[view].numpy(), sample.gt_reconstruction.valid[view].numpy()
            seen = truth['depth_mm'] / 1000.0
            known = truth['stable'] & valid & (seen > 0)
            assert known.mean() > 0.3
            error = (depth[known] - seen[known]) / seen[known]
            assert abs(np.median(error)) < 5e-4, 'a sampling shift would show as a bias on slanted surfaces'
            assert np.percentile(np.abs(error), 90) < 0.03
