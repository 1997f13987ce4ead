"""The VGGT demo, both tasks, the encoder frozen as pretrained."""

_base_ = ['../pano3d_vggt_demo.py', '../_base_/regimes/joint.py']

model = _base_.regime
