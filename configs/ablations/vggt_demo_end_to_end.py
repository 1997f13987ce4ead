"""The VGGT demo, both tasks, the encoder too."""

_base_ = ['../pano3d_vggt_demo.py', '../_base_/regimes/end_to_end.py']

model = _base_.regime
