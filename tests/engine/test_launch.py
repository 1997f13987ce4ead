"""Missing inputs are found before anything is built."""

import pytest
from mmengine.config import Config

from pano3d.engine import check_inputs


def make_config(root) -> Config:
    dataset = dict(data_root=str(root / 'scenes'), ann_file='train.json')
    return Config(
        dict(
            train_dataloader=dict(dataset=dataset),
            test_dataloader=dict(dataset={**dataset, 'ann_file': 'val.json'}),
            model=dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=str(root / 'weights.pth')))),
        )
    )


def test_everything_missing_is_said_at_once_with_its_remedy(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        check_inputs(make_config(tmp_path))
    for part in ('train.json', 'prepare_scannet.py', 'model.backbone.init_cfg.checkpoint', 'weights.pth', 'make demo'):
        assert part in str(error.value)


def test_what_is_there_is_accepted(tmp_path):
    (tmp_path / 'scenes').mkdir()
    (tmp_path / 'scenes' / 'train.json').touch()
    (tmp_path / 'weights.pth').touch()
    check_inputs(make_config(tmp_path))
    with pytest.raises(FileNotFoundError, match=r'val\.json'):
        check_inputs(make_config(tmp_path), training=False)


def test_remote_places_are_left_to_their_backend(tmp_path):
    config = make_config(tmp_path)
    config.train_dataloader.dataset.data_root = 's3://bucket/scenes'
    config.model.backbone.init_cfg.checkpoint = 'https://example.org/weights.pth'
    check_inputs(config)
