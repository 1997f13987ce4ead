"""The same recipe at the size of a laptop: made-up rooms, 4 views of 84x112, from scratch on two CPU cores."""

_base_ = 'pano3d_vggt_scannet.py'

data_root = 'data/synthetic_rooms/train'
train_pipeline = _base_.train_pipeline
test_pipeline = _base_.test_pipeline
train_pipeline[0].num_views = test_pipeline[0].num_views = 4
train_pipeline[3].update(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.0)
train_pipeline[2].size = test_pipeline[2].size = (84, 112)

model = dict(
    backbone=dict(
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
        init_cfg=None,
    ),
    head=dict(
        bridge=dict(encoder_dim=128, decoder_dim=256, hidden_dim=256, out_dim=128),
        upscaler=dict(dim=128, out_dim=128),
        decoder=dict(num_queries=32, dim=128, num_layers=3, num_heads=4, feedforward_dim=256),
        classifier=dict(dim=128),
    ),
    joint_loss=dict(geometry=dict(camera_weight=1.0), segmentation=dict(num_points=1024)),
    readout=dict(score_threshold=0.4, overlap_threshold=0.6),
    frozen_encoder=False,  # there are no pretrained weights to keep
)

train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root=data_root, min_frames=4, pipeline=train_pipeline),
)
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root='data/synthetic_rooms/held_out', pipeline=test_pipeline),
)
test_dataloader = val_dataloader

max_iters = 700
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters, eta_min_ratio=0.02),
]
train_cfg = dict(max_iters=max_iters, val_interval=175)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=max_iters))
