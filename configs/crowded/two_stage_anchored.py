"""Queries selected from the tokens, with anchors in 3D."""

_base_ = 'two_stage.py'

model = dict(head=dict(decoder=dict(anchors=dict(type='AnchoredPositions', dim=128))))
