# Short runs: more points on the training curves.
_base_ = 'default_runtime.py'

default_hooks = dict(logger=dict(interval=20))
