_base_ = 'pano3d_tiny.py'

model = dict(
    backbone=dict(
        type='DUSt3RBackbone',
        encoder_dim=128,
        encoder_depth=3,
        encoder_heads=4,
        decoder_dim=128,
        decoder_depth=4,
        decoder_heads=4,
        dense_features=32,
        dense_hidden=32,
        dense_channels=(32, 64, 96, 96),
    ),
    head=dict(bridge=dict(decoder_dim=128)),
    joint_loss=dict(geometry=dict(type='DUSt3RCriterion')),
)
