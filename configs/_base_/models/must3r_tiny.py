_base_ = 'pano3d_tiny.py'

model = dict(
    type='OnlinePano3D',
    backbone=dict(
        type='MUSt3RBackbone',
        encoder_dim=128,
        encoder_depth=3,
        encoder_heads=4,
        decoder_dim=128,
        decoder_depth=4,
        decoder_heads=4,
    ),
    head=dict(bridge=dict(decoder_dim=128)),
    joint_loss=dict(geometry=dict(type='MUSt3RCriterion')),
)
