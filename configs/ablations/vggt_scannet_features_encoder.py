"""The VGGT recipe, the head on encoder features only."""

_base_ = '../pano3d_vggt_scannet.py'

model = dict(head=dict(bridge=dict(features=('encoder',))))
