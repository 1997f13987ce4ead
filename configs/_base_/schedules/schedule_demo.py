# Minutes from scratch on two CPU cores: one cosine at a higher rate.
_base_ = 'schedule_30k.py'

max_iters = 700

optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters, eta_min_ratio=0.02),
]
train_cfg = dict(max_iters=max_iters, val_interval=175)
