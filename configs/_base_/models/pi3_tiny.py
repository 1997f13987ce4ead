_base_ = 'pano3d_tiny.py'

model = dict(
    backbone=dict(
        type='Pi3Backbone',
        position_grid=8,
        embed_dim=128,
        encoder_depth=3,
        encoder_heads=4,
        decoder_depth=8,
        decoder_heads=4,
        layer_scale=1.0,
        head_dim=128,
        head_depth=2,
        head_heads=4,
        dense_channels=128,
        camera_channels=128,
        frozen=(),  # from scratch, the confidence learns with the rest
    ),
    head=dict(bridge=dict(decoder_dim=256)),
    joint_loss=dict(geometry=dict(type='Pi3Criterion', confidence_weight=0.05)),
)
