"""The VGGT recipe, the factor on the segmentation gradient as the first steps measure it."""

_base_ = '../pano3d_vggt_scannet.py'

model = dict(segmentation_gradient=dict(_delete_=True, type='MeasuredGradientFactor', steps=100))
