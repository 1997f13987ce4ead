"""Oracles: the files that the test has written, an HTTP server beside the disk, and one worker beside many."""

import json
import logging
import pickle
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from pano3d.datasets import ScanNetMultiViewDataset
from pano3d.registry import DATASETS

TRAIN_PIPELINE = [
    {'type': 'RandomStrideViews', 'num_views': 3},
    {'type': 'ShuffleViews'},
    {'type': 'LoadViews'},
    {'type': 'ResizeCrop', 'size': (28, 42), 'crop': 'random'},
    {'type': 'ColorJitter'},
    {'type': 'MirrorScene'},
    {'type': 'PackScene'},
]


def build(data_root: Path | str, *, label_space='scannet20', ann_file='train.json', **arguments):
    return ScanNetMultiViewDataset(data_root=str(data_root), ann_file=ann_file, label_space=label_space, **arguments)


def frame_ids(sample):
    return sample['data_samples'].frame_ids


def assert_same(one, two):
    assert torch.equal(one['inputs'], two['inputs'])
    first, second = one['data_samples'], two['data_samples']
    assert first.metainfo == second.metainfo
    assert torch.equal(first.gt_panoptic.category, second.gt_panoptic.category)
    assert torch.equal(first.gt_panoptic.instance, second.gt_panoptic.instance)
    for name in ('depth', 'intrinsics', 'camera_to_world'):
        assert torch.equal(getattr(first.gt_depth, name), getattr(second.gt_depth, name))


@pytest.mark.parametrize(('label_space', 'count'), [('scannet20', 20), ('scannet200', 200)])
def test_metainfo(data_root, label_space, count):
    metainfo = build(data_root, label_space=label_space).metainfo
    assert metainfo['label_space'] == label_space
    assert len(metainfo['classes']) == count
    assert metainfo['stuff'] == ('wall', 'floor')


def test_registered_and_lazy(data_root):
    config = {'type': 'ScanNetMultiViewDataset', 'data_root': str(data_root), 'ann_file': 'train.json'}
    dataset = DATASETS.build({**config, 'label_space': 'scannet20', 'lazy_init': True})
    assert not dataset.data_list
    assert len(dataset) == 3
    with pytest.raises(TypeError, match='label_space'):
        DATASETS.build(config)


def test_info_of_a_scene(data_root):
    info = build(data_root).get_data_info(1)
    assert (info['scene'].scene_id, len(info['scene'].frames), info['sample_idx']) == ('scene0001_00', 9, 1)


@pytest.mark.parametrize('serialize_data', [True, False])
def test_indices_choose_scenes(data_root, serialize_data):
    dataset = build(data_root, indices=[2, 0], serialize_data=serialize_data)
    assert [dataset.get_data_info(i)['scene'].scene_id for i in range(2)] == ['scene0002_00', 'scene0000_00']


class TestRandomness:
    def test_a_sample_is_a_function_of_seed_and_index(self, data_root):
        dataset = build(data_root, pipeline=TRAIN_PIPELINE, seed=7)
        again = pickle.loads(pickle.dumps(build(data_root, pipeline=TRAIN_PIPELINE, seed=7)))
        for index in (0, 4, 1000):
            first = dataset[index]
            dataset[2]  # whatever happens in between
            torch.rand(1)
            assert_same(first, dataset[index])
            assert_same(first, again[index])

    def test_another_draw_is_the_same_scene_with_other_numbers(self, data_root):
        dataset = build(data_root, pipeline=TRAIN_PIPELINE)
        draws = [dataset[1 + 3 * draw] for draw in range(8)]
        assert {sample['data_samples'].scene_id for sample in draws} == {'scene0001_00'}
        assert len({tuple(frame_ids(sample)) for sample in draws}) >= 6

    def test_another_seed_draws_other_numbers(self, data_root):
        one, two = (build(data_root, pipeline=TRAIN_PIPELINE, seed=seed) for seed in (0, 1))
        assert [frame_ids(one[i]) for i in (1, 4, 7, 10)] != [frame_ids(two[i]) for i in (1, 4, 7, 10)]

    def test_order_and_samples_do_not_depend_on_the_workers(self, data_root):
        with DefaultScope.overwrite_default_scope('pano3d'):
            loaders = [
                Runner.build_dataloader(
                    {
                        'batch_size': 2,
                        'num_workers': workers,
                        'sampler': {'type': 'InfiniteDrawSampler'},
                        'dataset': {
                            'type': 'ScanNetMultiViewDataset',
                            'data_root': str(data_root),
                            'ann_file': 'train.json',
                            'label_space': 'scannet20',
                            'pipeline': TRAIN_PIPELINE,
                        },
                    },
                    seed=11,
                )
                for workers in (0, 2)
            ]
        batches = [list(islice(loader, 5)) for loader in loaders]
        for one, two in zip(*batches, strict=True):
            for i in range(2):
                assert_same({k: one[k][i] for k in one}, {k: two[k][i] for k in two})


def test_iteration_ends(data_root):
    dataset = build(data_root, pipeline=[{'type': 'LinspaceViews', 'num_views': 2}])
    names = [results['scene'].scene_id for results in islice(dataset, 10)]
    assert names == ['scene0000_00', 'scene0001_00', 'scene0002_00']
    assert dataset[-1]['scene'].scene_id == 'scene0002_00'
    with pytest.raises(IndexError, match='-4'):
        dataset[-4]


def test_a_transform_must_return_a_sample(data_root):
    with pytest.raises(ValueError, match='returned None for index 1'):
        build(data_root, pipeline=[lambda results: None])[1]


class TestMinFrames:
    def test_short_scenes_are_left_out_and_counted(self, data_root, monkeypatch):
        messages = []
        monkeypatch.setattr(
            'pano3d.datasets.scannet_multiview.print_log', lambda text, level, **_: messages.append((text, level))
        )
        dataset = build(data_root, min_frames=6)
        assert [dataset.get_data_info(i)['scene'].scene_id for i in range(len(dataset))] == [
            'scene0000_00',
            'scene0001_00',
        ]
        ((text, level),) = messages
        assert '1 of 3 scenes have fewer than 6 frames' in text
        assert level == logging.WARNING

    def test_none_left(self, data_root):
        with pytest.raises(ValueError, match=r'no scene has the 10 frames .*\(3 scenes, at most 9 frames\)'):
            build(data_root, min_frames=10)


class TestRefusals:
    def test_missing_dataset(self, tmp_path):
        with pytest.raises(FileNotFoundError) as caught:
            build(tmp_path / 'nothing')
        message = str(caught.value)
        for part in (
            f'looked for {tmp_path}/nothing/train.json',
            f'python tools/prepare_scannet.py RAW {tmp_path}/nothing',
            'terms of use',
            '`make demo` needs neither ScanNet nor pretrained weights',
        ):
            assert part in message

    def test_missing_relative_dataset_shows_where_that_is(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(FileNotFoundError, match=f'looked for {tmp_path}/data/scannet/val.json'):
            build('data/scannet', ann_file='val.json')

    def test_unknown_label_space(self, data_root):
        with pytest.raises(ValueError, match="no label space 'scannet21'"):
            build(data_root, label_space='scannet21')

    @pytest.mark.parametrize(
        ('content', 'message'),
        [
            ('{"metainfo": {"format": "pano3d-scenes", "version": 2}, "data_list": []}', 'version 2'),
            ('{"metainfo": {"dataset": "scannet"}, "data_list": []}', 'found None version None'),
            ('{"metainfo": [], "data_list": []}', 'not a list of converted scenes'),
            ('{"metainfo": {"format": "pano3d-scenes", "version": 1}}', 'data_list'),
            ('{"metainfo": {"format": "pano3d-scenes", "version": 1}, "data_list": [{}]}', 'scene_id'),
            ('{"metainfo": {"format": "pano3d-scenes", "version": 1}, "data_list": []}', 'the split has no scene'),
            ('not json', 'expected a JSON file'),
        ],
    )
    def test_damaged_split(self, tmp_path, content, message):
        (tmp_path / 'train.json').write_text(content)
        with pytest.raises(ValueError, match=message) as caught:
            build(tmp_path)
        assert f'{tmp_path}/train.json' in str(caught.value)

    def test_split_and_scene_disagree(self, make_dataset):
        root = make_dataset({'a': 3})
        (root / 'train.json').write_text((root / 'train.json').read_text().replace('3}', '4}'))
        with pytest.raises(ValueError, match=r'promises 4 frames, scene\.json has 3'):
            build(root).get_data_info(0)

    def test_scene_is_gone(self, make_dataset):
        root = make_dataset({'a': 3})
        (root / 'scenes' / 'a').rename(root / 'elsewhere')
        with pytest.raises(FileNotFoundError, match=f'{root}/scenes/a/scene.json'):
            build(root)[0]

    def test_label_space_of_another_source(self, data_root, tmp_path):
        """Silently everything would be void."""
        path = tmp_path / 'plants.json'
        classes = [{'name': 'fern', 'id': 1, 'stuff': False}]
        path.write_text(json.dumps({'name': 'plants', 'source_key': 'plant_id', 'classes': classes}))
        with pytest.raises(ValueError, match=r"label space 'plants' reads 'plant_id' .*'scannet_v2'.*'nyu40_id'"):
            build(data_root, label_space=str(path))[0]


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(data_root):
    handler = partial(QuietHandler, directory=str(data_root))
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{running.server_port}'
        running.shutdown()


def test_a_remote_dataset_is_the_same(data_root, server):
    for backend_args in (None, {'backend': 'http'}):
        remote = build(server, pipeline=TRAIN_PIPELINE, backend_args=backend_args)
        there, here = remote[4], build(data_root, pipeline=TRAIN_PIPELINE)[4]
        assert torch.equal(there['inputs'], here['inputs'])
        assert torch.equal(there['data_samples'].gt_panoptic.category, here['data_samples'].gt_panoptic.category)


def test_a_missing_remote_dataset(server):
    with pytest.raises(FileNotFoundError, match=f'looked for {server}/nothing/train.json'):
        build(f'{server}/nothing')
