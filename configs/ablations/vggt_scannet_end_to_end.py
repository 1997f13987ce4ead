"""The VGGT recipe, both tasks, the encoder too."""

_base_ = ['../pano3d_vggt_scannet.py', '../_base_/regimes/end_to_end.py']

model = _base_.regime
