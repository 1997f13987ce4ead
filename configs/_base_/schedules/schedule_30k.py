# The paper's schedule for ScanNet (method.md, section 4): AdamW 1e-4, clipping 1.0, warm-up 3000 steps, then halved at
# 30, 50, 70, 85 and 95 % of training (factor and milestones are ours: the paper gives the range only).
max_iters = 30000

optim_wrapper = dict(
    type='GuardedOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=1.0),
    constructor='PartOptimWrapperConstructor',
    # Weight decay acts on the segmentation part only.
    paramwise_cfg=dict(custom_keys={'backbone': dict(decay_mult=0.0)}),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=3000),
    dict(type='MultiStepLR', by_epoch=False, milestones=[9000, 15000, 21000, 25500, 28500], gamma=0.5),
]
train_cfg = dict(type='ReproducibleTrainLoop', max_iters=max_iters, val_interval=5000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
