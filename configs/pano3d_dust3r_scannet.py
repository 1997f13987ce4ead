"""The recipe of the paper with DUSt3R: 15 views of 384x512, 28 pairs with the first one, on 8 GPUs, 30k steps."""

_base_ = [
    '_base_/models/dust3r.py',
    '_base_/datasets/scannet20_patch16.py',
    '_base_/schedules/schedule_30k.py',
    '_base_/protocols/scannet20.py',
    '_base_/default_runtime.py',
]

model = dict(
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='checkpoints/dust3r_512_dpt.pth')),
)
