# MUSt3R, ViT-L encoder, 512 pixels: keyframes fill a memory, all views are rendered from it. One of the paper's two.
_base_ = 'pano3d.py'

model = dict(
    type='OnlinePano3D',
    backbone=dict(type='MUSt3RBackbone'),
    head=dict(bridge=dict(encoder_dim=1024, decoder_dim=768)),
    joint_loss=dict(geometry=dict(type='MUSt3RCriterion')),
)
