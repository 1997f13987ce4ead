"""mmdet3d's ImVoxelNet on SUN RGB-D with VGGT as its image backbone, for mmdet3d's own tools."""

_base_ = 'mmdet3d::imvoxelnet/imvoxelnet_2xb4_sunrgbd-3d-10class.py'

custom_imports = dict(imports=['pano3d'])

model = dict(
    data_preprocessor=dict(mean=[0, 0, 0], std=[255, 255, 255], pad_size_divisor=14),
    backbone=dict(
        _delete_=True,
        type='pano3d.VGGTFeatures',
        network=dict(
            heads=('camera', 'depth'),
            init_cfg=dict(type='Pretrained', checkpoint='checkpoints/vggt_1b.safetensors'),
        ),
    ),
    neck=dict(in_channels=[2048], num_outs=1),
)
