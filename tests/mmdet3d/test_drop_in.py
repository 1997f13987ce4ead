"""From a foreign folder, by a foreign config, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pano3d.mmdet3d import require

try:
    require('mmdet3d')
except ImportError as error:
    pytest.skip(str(error), allow_module_level=True)

HEAD = """
_base_ = 'pano3d::mmdet3d/vggt_demo_detection.py'
train_cfg = dict(max_iters=7)
"""
FOREIGN = """
default_scope = 'mmdet3d'
custom_imports = dict(imports=['pano3d'])
model = dict(type='mmdet.FPN', in_channels=[64], out_channels=8, num_outs=1)
backbone = dict(
    type='pano3d.VGGTFeatures',
    network=dict(
        heads=('camera', 'depth'),
        position_grid=4,
        embed_dim=32,
        encoder_depth=1,
        encoder_heads=2,
        decoder_depth=1,
        decoder_heads=2,
        camera_depth=1,
        camera_heads=2,
        dense_layers=(0, 0, 0, 0),
        dense_channels=(8, 8, 8, 8),
        dense_features=8,
    ),
)
metric = dict(type='pano3d.Det3DMetric', metric='panoptic', label_space='scannet20')
"""
CODE = """
    import torch
    from mmengine.config import Config
    from mmengine.registry import DefaultScope

    config = Config.fromfile('foreign.py')
    from mmdet3d.registry import METRICS, MODELS

    with DefaultScope.overwrite_default_scope(config.default_scope):
        backbone, neck = MODELS.build(config.backbone), MODELS.build(config.model)
        metric = METRICS.build(config.metric)
    print(tuple(neck(backbone(torch.rand(1, 3, 28, 42)))[0].shape), metric.prefix)
    child = Config.fromfile('child.py')
    print(child.train_cfg.max_iters, child.default_scope, child.model.extra_heads.detection.type)
"""


@pytest.mark.slow
def test_foreign_configs_in_a_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / 'foreign.py').write_text(FOREIGN)
    (tmp_path / 'child.py').write_text(HEAD)
    run = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', textwrap.dedent(CODE)], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-2:] == [
        '(1, 8, 2, 3) scannet20/mmdet3d_panoptic/gt_points',
        '7 pano3d BoxDetection',
    ]
