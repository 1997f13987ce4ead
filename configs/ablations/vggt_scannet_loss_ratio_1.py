"""The VGGT recipe, geometry weighted as segmentation."""

_base_ = '../pano3d_vggt_scannet.py'

model = dict(joint_loss=dict(weights=dict(geometry=1.0)))
