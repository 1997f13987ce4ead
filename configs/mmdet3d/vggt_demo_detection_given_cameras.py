"""Boxes in metres: the volume is filled through the true cameras, which prediction needs, too."""

_base_ = 'vggt_demo_detection.py'

model = dict(
    extra_heads=dict(detection=dict(cameras='given', unit='metres', volume=(-3.5, -1.5, -2.25, 3.5, 4.1, 0.95)))
)
_base_.val_evaluator[-1].geometry = 'gt_depth'
test_evaluator = _base_.val_evaluator
