"""The VGGT recipe, fine-tuned on geometry only."""

_base_ = ['../pano3d_vggt_scannet.py', '../_base_/regimes/geometry_only.py']

model = _base_.regime
