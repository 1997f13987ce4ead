# DUSt3R, ViT-L encoder, 512 pixels, DPT heads: pairs of the first view with every other one.
_base_ = 'pano3d.py'

model = dict(
    backbone=dict(type='DUSt3RBackbone'),
    head=dict(bridge=dict(encoder_dim=1024, decoder_dim=768)),
    joint_loss=dict(geometry=dict(type='DUSt3RCriterion')),
)
