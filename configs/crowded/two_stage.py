"""Queries selected from the tokens."""

_base_ = 'k100.py'

model = dict(head=dict(decoder=dict(selection=dict(type='TokenSelection', dim=128))))
