# What every run shares: logging, checkpoints, reproducibility.
default_scope = 'pano3d'

default_hooks = dict(
    runtime_info=dict(type='RuntimeInfoHook'),
    timer=dict(type='IterTimerHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1000, max_keep_ckpts=2, save_last=True),
    non_finite_step=dict(type='NonFiniteStepHook', max_in_a_row=10),
    joint_training=dict(type='JointTrainingHook'),
    plain_checkpoint=dict(type='PlainCheckpointHook'),
)
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=False, mean_pattern=r'.*(loss|raw|time|grad_norm).*')
log_level = 'INFO'

visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
randomness = dict(seed=0)

load_from = None
resume = False
