_base_ = 'pano3d_tiny.py'

model = dict(
    backbone=dict(
        type='VGGTBackbone',
        heads=('camera', 'depth'),
        position_grid=8,
        embed_dim=128,
        encoder_depth=3,
        encoder_heads=4,
        decoder_depth=4,
        decoder_heads=4,
        camera_depth=1,
        camera_heads=4,
        dense_layers=(0, 1, 2, 3),
        dense_channels=(32, 64, 96, 96),
        dense_features=32,
        layer_scale=1.0,
    ),
    head=dict(bridge=dict(decoder_dim=256)),
    joint_loss=dict(geometry=dict(type='VGGTCriterion', camera_weight=1.0)),
)
