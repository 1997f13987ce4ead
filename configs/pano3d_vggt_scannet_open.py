"""The VGGT recipe with classes by name: trained on ScanNet20, asked for any words (`tools/infer.py --classes`)."""

_base_ = 'pano3d_vggt_scannet.py'

model = dict(head=dict(classifier=dict(_delete_=True, type='TextClassifier', dim=256, label_space='scannet20')))

optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'classifier.log_scale': dict(decay_mult=0.0)}))
