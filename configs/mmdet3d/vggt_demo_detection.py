"""The VGGT demo with 3D boxes: neck and head of mmdet3d's ImVoxelNet on our features, cameras as predicted."""

_base_ = '../pano3d_vggt_demo.py'

model = dict(
    extra_heads=dict(
        detection=dict(
            type='BoxDetection',
            bridge=dict(type='FeatureBridge', encoder_dim=128, decoder_dim=256, hidden_dim=256, out_dim=16),
            neck=dict(in_channels=16, out_channels=16, n_blocks=(1, 1, 1)),
            bbox_head=dict(pts_assign_threshold=27, pts_center_threshold=18),
            volume=(-1.4, -0.6, -0.9, 1.4, 1.64, 0.38),
            num_voxels=(40, 32, 16),
            label_space='scannet20',
        )
    ),
    joint_loss=dict(weights=dict(detection=1.0)),
)
val_evaluator = [*_base_.val_evaluator, dict(type='BoxMetric')]
test_evaluator = val_evaluator
