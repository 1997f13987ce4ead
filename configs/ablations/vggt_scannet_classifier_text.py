"""The VGGT recipe, classes by similarity with embedded names: the open recipe as a row of the table."""

_base_ = '../pano3d_vggt_scannet_open.py'
