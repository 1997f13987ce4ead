"""The Pi3 recipe at the size of a laptop: made-up rooms, 4 views of 84x112, from scratch on two CPU cores."""

_base_ = [
    '_base_/models/pi3_tiny.py',
    '_base_/datasets/synthetic_rooms.py',
    '_base_/schedules/schedule_demo.py',
    '_base_/protocols/scannet20.py',
    '_base_/demo_runtime.py',
]
