"""The VGGT recipe, twice the segmentation gradient into the decoder."""

_base_ = '../pano3d_vggt_scannet.py'

model = dict(segmentation_gradient=2.0)
