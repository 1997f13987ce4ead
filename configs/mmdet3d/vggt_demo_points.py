"""The VGGT demo with semantics of the predicted point cloud: mmdet3d's MinkUNet on our features."""

_base_ = '../pano3d_vggt_demo.py'

model = dict(
    extra_heads=dict(
        point_semantics=dict(
            type='PointSegmentation',
            bridge=dict(type='FeatureBridge', encoder_dim=128, decoder_dim=256, hidden_dim=256, out_dim=32),
            unet=dict(
                base_channels=32,
                encoder_channels=(32, 48, 64, 64),
                encoder_blocks=(1, 1, 1, 1),
                decoder_channels=(64, 48, 32, 32),
                decoder_blocks=(1, 1, 1, 1),
            ),
            classifier=dict(dropout_ratio=0, loss_decode=dict(type='mmdet.CrossEntropyLoss', avg_non_ignore=True)),
            label_space='scannet20',
            voxel_size=0.02,
        )
    ),
    joint_loss=dict(weights=dict(point_semantics=1.0)),
)
val_evaluator = [*_base_.val_evaluator, dict(type='PointSegMetric')]
test_evaluator = val_evaluator
