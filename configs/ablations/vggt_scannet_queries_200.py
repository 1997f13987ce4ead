"""The VGGT recipe, 200 queries."""

_base_ = '../pano3d_vggt_scannet.py'

model = dict(head=dict(decoder=dict(num_queries=200)))
