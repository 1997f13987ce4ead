"""The VGGT demo, fine-tuned on geometry only."""

_base_ = ['../pano3d_vggt_demo.py', '../_base_/regimes/geometry_only.py']

model = _base_.regime
