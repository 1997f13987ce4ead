# Every protocol that scenes of views can serve. Protocols on labelled points (pq_points, ap_points, miou_points) need
# samples of points and are not among them.
_base_ = [
    'panoptic.py',
    'semantic.py',
    'instances.py',
    'depth.py',
    'points.py',
    'poses.py',
    'voxels.py',
    'mesh.py',
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
    *_base_.unposed,
    *_base_.iggt,
]
test_evaluator = val_evaluator
