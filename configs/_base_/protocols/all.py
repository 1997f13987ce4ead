# Every protocol. Those that a data set or a prediction cannot serve are reported as not applicable, with the reason.
_base_ = [
    'panoptic.py',
    'semantic.py',
    'instances.py',
    'depth.py',
    'points.py',
    'poses.py',
    'voxels.py',
    'mesh.py',
    'labelled_points.py',
    'unposed.py',
    'iggt.py',
]

val_evaluator = [
    *_base_.panoptic,
    *_base_.semantic,
    *_base_.instances,
    *_base_.depth,
    *_base_.points,
    *_base_.poses,
    *_base_.voxels,
    *_base_.mesh,
    *_base_.labelled_points,
    *_base_.unposed,
    *_base_.iggt,
]
test_evaluator = val_evaluator
