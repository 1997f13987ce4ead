"""The VGGT recipe, weights that keep the gradients of both tasks in the decoder equal."""

_base_ = '../pano3d_vggt_scannet.py'

model = dict(
    segmentation_gradient=1.0,
    joint_loss=dict(
        strategy=dict(type='GradientBalancedWeights', shares=dict(geometry=1.0, segmentation=1.0)),
    ),
)
