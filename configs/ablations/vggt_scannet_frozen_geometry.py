"""The VGGT recipe, only the head learns."""

_base_ = ['../pano3d_vggt_scannet.py', '../_base_/regimes/frozen_geometry.py']

model = _base_.regime
