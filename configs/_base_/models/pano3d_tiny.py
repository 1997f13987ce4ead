# The same at the size of a laptop, from scratch: no pretrained weights, so the encoder is trained too.
_base_ = 'pano3d.py'

model = dict(
    head=dict(
        bridge=dict(encoder_dim=128, hidden_dim=256, out_dim=128),
        upscaler=dict(dim=128, out_dim=128),
        decoder=dict(num_queries=32, dim=128, num_layers=3, num_heads=4, feedforward_dim=256, init_cfg=None),
        classifier=dict(dim=128),
    ),
    joint_loss=dict(segmentation=dict(num_points=1024)),
    readout=dict(score_threshold=0.4, overlap_threshold=0.6),
    frozen_encoder=False,
)
