"""The VGGT recipe, geometry weighted 20 times segmentation."""

_base_ = '../pano3d_vggt_scannet.py'

model = dict(joint_loss=dict(weights=dict(geometry=20.0)))
