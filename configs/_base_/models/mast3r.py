# MASt3R, 512 pixels, metric: DUSt3R's layout, other weights, descriptors beside the points.
_base_ = 'dust3r.py'

model = dict(backbone=dict(type='MASt3RBackbone'))
