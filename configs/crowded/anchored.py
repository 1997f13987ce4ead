"""Learned queries with anchors in 3D."""

_base_ = 'k100.py'

model = dict(head=dict(decoder=dict(anchors=dict(type='AnchoredPositions', dim=128))))
