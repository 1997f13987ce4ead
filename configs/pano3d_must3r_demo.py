"""The MUSt3R recipe at the size of a laptop: made-up rooms, 4 views of 96x128, from scratch on two CPU cores."""

_base_ = [
    '_base_/models/must3r_tiny.py',
    '_base_/datasets/synthetic_rooms_patch16.py',
    '_base_/schedules/schedule_demo.py',
    '_base_/protocols/scannet20.py',
    '_base_/demo_runtime.py',
]
