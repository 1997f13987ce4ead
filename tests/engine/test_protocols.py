"""Which metrics a run evaluates: bases, names, label spaces."""

from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.registry import DefaultScope

from pano3d.engine import load_config, select_protocols
from pano3d.evaluation.metric_key import MetricKey, protocol_of
from pano3d.registry import METRICS

CONFIGS = Path(__file__).parents[2] / 'configs'
FAMILIES = sorted((CONFIGS / '_base_' / 'protocols').glob('*.py'))


@pytest.fixture
def config():
    return load_config(CONFIGS / 'pano3d_vggt_scannet.py')


def prefixes(metrics: list[dict]) -> list[str]:
    with DefaultScope.overwrite_default_scope('pano3d'):
        return [METRICS.build(dict(metric)).prefix for metric in metrics]


def test_all_protocols_are_those_of_all_families(config):
    found = prefixes(select_protocols(config, ['all']))
    assert len(found) == len(set(found)) == 34
    families = {path.stem for path in FAMILIES} - {'all', 'scannet20'}
    metrics = [m for family in families for m in load_config(CONFIGS / f'_base_/protocols/{family}.py')[family]]
    assert len(metrics) == len(found)


def test_the_label_space_is_that_of_the_data(config):
    config.test_dataloader.dataset.label_space = 'scannet200'
    config.test_evaluator = [dict(type='DepthMetric')]
    spaces = {prefix.split('/')[0] for prefix in prefixes(select_protocols(config, ['all'])) if 'scannet' in prefix}
    assert spaces == {'scannet200'}


def test_a_base_takes_the_label_space_of_the_data_set(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(
        "_base_ = 'pano3d::_base_/protocols/all.py'\n"
        "test_dataloader = dict(dataset=dict(type='ScanNetMultiViewDataset', label_space='scannet200'))\n"
    )
    config = load_config(path)
    [iggt] = [metric for metric in config.test_evaluator if metric['type'] == 'IGGTMetric']
    assert iggt['label_space'] == 'scannet200'
    [depth, *_] = [metric for metric in config.test_evaluator if metric['type'] == 'DepthMetric']
    assert 'label_space' not in depth
    assert 'label_space' not in config.val_evaluator[0]  # no data set for it


def test_settings_of_the_config_prevail(config):
    config.test_evaluator = [dict(type='UniteMeshMetric', label_space='scannet20', num_neighbours=1)]
    [mesh] = select_protocols(config, ['unite_mesh'])
    assert mesh['num_neighbours'] == 1
    [voxels] = select_protocols(config, ['miou_voxel'])
    assert voxels['per_class'] and voxels['label_space'] == 'scannet20'


def test_an_unknown_protocol_is_an_error(config):
    with pytest.raises(ValueError, match=r"there is no protocol 'unite_mes'; did you mean 'unite_mesh'\?"):
        select_protocols(config, ['miou', 'unite_mes'])
    with pytest.raises(ValueError, match=r"there is no protocol 'xyz'; known are 'all' and .*'iggt'"):
        select_protocols(config, ['xyz'])


@pytest.mark.parametrize(
    ('key', 'protocol'),
    [
        ('scannet20/miou/pixels', 'miou'),
        ('scannet20/unite_mesh', 'unite_mesh'),
        ('scannet20/pq_points/gt_depth', 'pq_points'),
        ('depth_mvd_pi3/own_geometry', 'depth_mvd_pi3'),
    ],
)
def test_the_protocol_of_a_prefix(key, protocol):
    assert protocol_of(key) == protocol


def test_a_protocol_by_name_means_all_its_geometries(config):
    found = prefixes(select_protocols(config, ['ap_points', 'miou']))
    places = ('gt_points', 'gt_depth', 'own_geometry')
    assert found == ['scannet20/miou/pixels', *(f'scannet20/ap_points/{place}' for place in places)]


@pytest.mark.parametrize(
    ('key', 'parts'),
    [
        ('scannet20/unite_mesh/gt_depth/mIoU', ('scannet20', 'unite_mesh', 'gt_depth', 'mIoU', None)),
        ('scannet20/miou/pixels/IoU/shower curtain', ('scannet20', 'miou', 'pixels', 'IoU', 'shower curtain')),
        ('pose_auc/own_geometry/AUC@5', (None, 'pose_auc', 'own_geometry', 'AUC@5', None)),
    ],
)
def test_a_key_is_read_part_by_part(key, parts):
    assert MetricKey.parse(key) == MetricKey(*parts)
    assert str(MetricKey(*parts)) == key


@pytest.mark.parametrize(
    'key', ['mIoU', 'pixels/mIoU', 'a/b/c/pixels/mIoU', 'miou/pixels', 'miou/pixels/a/b/c', 'a//pixels/b', 'a/b/gt/PQ']
)
def test_a_key_that_does_not_follow_the_grammar_is_refused(key):
    with pytest.raises(ValueError, match=r'expected .label space/.protocol'):
        MetricKey.parse(key)
