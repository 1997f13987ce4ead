"""The demo with classes by name: made-up rooms, and words that no training has seen."""

_base_ = 'pano3d_vggt_demo.py'

model = dict(head=dict(classifier=dict(_delete_=True, type='TextClassifier', dim=128, label_space='scannet20')))

optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'classifier.log_scale': dict(decay_mult=0.0)}))
