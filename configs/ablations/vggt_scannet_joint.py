"""The VGGT recipe, both tasks, the encoder frozen as pretrained."""

_base_ = ['../pano3d_vggt_scannet.py', '../_base_/regimes/joint.py']

model = _base_.regime
