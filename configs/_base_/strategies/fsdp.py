# Parameters, gradients and optimiser state in shards over all processes: for networks that do not fit otherwise.
runner_type = 'FlexibleRunner'
strategy = dict(
    type='FSDPStrategy',
    model_wrapper=dict(type='MMFullyShardedDataParallel', use_orig_params=True),
    state_dict_cfg='full',
)
