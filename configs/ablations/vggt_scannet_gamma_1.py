"""The VGGT recipe, the whole segmentation gradient into the decoder."""

_base_ = '../pano3d_vggt_scannet.py'

model = dict(segmentation_gradient=1.0)
