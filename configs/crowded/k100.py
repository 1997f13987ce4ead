"""Crowded made-up rooms at the size of the demo: 100 learned queries, what the other files here differ from."""

_base_ = [
    '../_base_/models/vggt_tiny.py',
    '../_base_/datasets/crowded_rooms.py',
    '../_base_/schedules/schedule_demo.py',
    '../_base_/protocols/scannet20.py',
    '../_base_/demo_runtime.py',
]

model = dict(head=dict(decoder=dict(num_queries=100)))

val_evaluator = [*_base_.val_evaluator, dict(type='MergedInstanceMetric', label_space='scannet20')]
test_evaluator = val_evaluator
