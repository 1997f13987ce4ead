# Labels of points: of given ones, and of views carried to the vertices of the mesh, by the true geometry and by ours.
labelled_points = [
    dict(type='PointPanopticMetric'),
    dict(type='PointPanopticMetric', geometry='gt_depth'),
    dict(type='PointPanopticMetric', geometry='own_geometry'),
    dict(type='PointSemanticMetric'),
    dict(type='PointSemanticMetric', geometry='gt_depth'),
    dict(type='PointSemanticMetric', geometry='own_geometry'),
    dict(type='PointInstanceMetric'),
    dict(type='PointInstanceMetric', geometry='gt_depth', per_class=True),
    dict(type='PointInstanceMetric', geometry='own_geometry'),
    dict(type='PointInstanceMetric', class_agnostic=True),
    dict(type='PointInstanceMetric', class_agnostic=True, geometry='gt_depth'),
    dict(type='PointInstanceMetric', class_agnostic=True, geometry='own_geometry'),
]
