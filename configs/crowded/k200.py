"""200 learned queries."""

_base_ = 'k100.py'

model = dict(head=dict(decoder=dict(num_queries=200)))
