"""Every file of a sample comes through the file back end of the config. Oracle: the same data set on the disk."""

import json
import shutil

import numpy as np
import pytest
import torch
from mmengine.fileio import BaseStorageBackend, register_backend

from pano3d.datasets import OverlapTable, ScanNetMultiViewDataset, read_scene


class RememberingBackend(BaseStorageBackend):
    """Files in memory, as in a database of keys and values; notes what is read."""

    files: dict[str, bytes] = {}
    read: set[str] = set()

    def get(self, filepath: str) -> bytes:
        if str(filepath) not in self.files:
            raise FileNotFoundError(f'no key {filepath}')
        self.read.add(str(filepath))
        return self.files[str(filepath)]

    def get_text(self, filepath: str, encoding: str = 'utf-8') -> str:
        return self.get(filepath).decode(encoding)


register_backend('remembering', RememberingBackend)
ARGUMENTS = {'backend': 'remembering'}


@pytest.fixture
def stored(make_dataset, tmp_path):
    """(root on the disk, root that is in memory only)."""
    root = make_dataset({'a': 6, 'b': 9})
    for scene_id in 'ab':
        scene = read_scene(str(root / 'scenes' / scene_id))
        count = len(scene.frames)
        table = OverlapTable(tuple(frame.id for frame in scene.frames), np.full((count, count), 0.5, np.float32))
        table.write(scene.overlap)
    views = {'a': [['000040', '000000']], 'b': [['000160', '000020']]}
    listed = {'format': 'pano3d-views', 'version': 1, 'views': views}
    (root / 'views.json').write_text(json.dumps(listed))
    moved = tmp_path / 'moved'
    RememberingBackend.read.clear()
    RememberingBackend.files = {
        f'{moved}/{path.relative_to(root)}': path.read_bytes() for path in root.rglob('*') if path.is_file()
    }
    yield root, moved
    RememberingBackend.files = {}


@pytest.mark.parametrize(
    'choice',
    [
        {'type': 'RandomStrideViews', 'num_views': 2},
        {'type': 'LinspaceViews', 'num_views': 2},
        {'type': 'AllViews'},
        {'type': 'ListedViews'},
        {'type': 'OverlapViews', 'num_views': 2},
    ],
    ids=lambda choice: choice['type'],
)
def test_samples_are_the_same_without_a_local_file(stored, choice):
    samples = []
    for root, backend_args in zip(stored, (None, ARGUMENTS), strict=True):
        of_root = {'path': f'{root}/views.json'} if choice['type'] == 'ListedViews' else {}
        dataset = ScanNetMultiViewDataset(
            data_root=str(root),
            ann_file='train.json',
            label_space='scannet20',
            backend_args=backend_args,
            pipeline=[
                {**choice, **of_root},
                {'type': 'ShuffleViews'},
                {'type': 'LoadViews', 'min_size': (20, 26)},
                {'type': 'ResizeCrop', 'size': (20, 26), 'crop': 'random'},
                {'type': 'ColorJitter'},
                {'type': 'MirrorScene'},
                {'type': 'PackScene'},
            ],
        )
        samples.append([dataset[index] for index in range(4)])
    assert not stored[1].exists()
    for here, there in zip(*samples, strict=True):
        assert here['data_samples'].frame_ids == there['data_samples'].frame_ids
        assert torch.equal(here['inputs'], there['inputs'])
        one, two = (sample['data_samples'] for sample in (here, there))
        assert torch.equal(one.gt_panoptic.category, two.gt_panoptic.category)
        assert torch.equal(one.gt_depth.depth, two.gt_depth.depth)
    kinds = {name.removeprefix(f'{stored[1]}/').split('/')[0] for name in RememberingBackend.read}
    extra = {'ListedViews': {'views.json'}}.get(choice['type'], set())
    assert kinds == {'train.json', 'scenes'} | extra
    assert any(name.endswith('overlap.npz') for name in RememberingBackend.read) == (choice['type'] == 'OverlapViews')


@pytest.mark.parametrize('name', ['scene.json', 'color/000000.jpg', 'depth/000000.png', 'instance/000000.png'])
def test_a_missing_key_is_named(stored, name):
    root, moved = stored
    shutil.rmtree(root)
    del RememberingBackend.files[f'{moved}/scenes/a/{name}']
    dataset = ScanNetMultiViewDataset(
        data_root=str(moved),
        ann_file='train.json',
        label_space='scannet20',
        backend_args=ARGUMENTS,
        pipeline=[{'type': 'LinspaceViews', 'num_views': 2}, {'type': 'LoadViews'}],
    )
    with pytest.raises(FileNotFoundError, match=f'scenes/a/{name}'):
        dataset[0]
