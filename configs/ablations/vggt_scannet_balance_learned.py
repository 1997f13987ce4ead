"""The VGGT recipe, weights of the tasks learned from their uncertainty."""

_base_ = '../pano3d_vggt_scannet.py'

model = dict(joint_loss=dict(strategy=dict(type='UncertaintyWeights')))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'joint_loss': dict(decay_mult=0.0)}))
