"""The recipe of the paper with Pi3X: 15 views of 378x518, on 8 GPUs, 30k steps (method, section 4)."""

_base_ = [
    '_base_/models/pi3x.py',
    '_base_/datasets/scannet20.py',
    '_base_/schedules/schedule_30k.py',
    '_base_/protocols/scannet20.py',
    '_base_/default_runtime.py',
]

model = dict(
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='checkpoints/pi3x.safetensors')),
)
