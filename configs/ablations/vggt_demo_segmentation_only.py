"""The VGGT demo, fine-tuned on segmentation only."""

_base_ = ['../pano3d_vggt_demo.py', '../_base_/regimes/segmentation_only.py']

model = _base_.regime
