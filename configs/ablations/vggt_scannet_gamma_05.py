"""The VGGT recipe, half of the segmentation gradient into the decoder."""

_base_ = '../pano3d_vggt_scannet.py'

model = dict(segmentation_gradient=0.5)
