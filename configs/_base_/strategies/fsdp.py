# Parameters, gradients and optimiser state in shards over all processes: for networks that do not fit otherwise.
runner_type = 'FlexibleRunner'
# The strategy is looked up before the default scope is known.
strategy = dict(
    type='pano3d.ShardedStrategy',
    model_wrapper=dict(type='MMFullyShardedDataParallel', use_orig_params=True),
    state_dict_cfg='full',
)
