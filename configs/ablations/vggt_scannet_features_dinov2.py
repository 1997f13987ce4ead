"""The VGGT recipe, features of DINOv2 as it was released for the head, too."""

_base_ = '../pano3d_vggt_scannet.py'

model = dict(
    extra_features=dict(
        dinov2=dict(
            type='DINOv2Features',
            init_cfg=dict(type='Pretrained', checkpoint='checkpoints/dinov2_vitl14_reg4_pretrain.pth'),
        )
    ),
    head=dict(bridge=dict(extra_dims=dict(dinov2=1024))),
)
