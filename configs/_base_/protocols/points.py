# Distances between predicted and true surfaces.
points = [dict(type='PointCloudMetric'), dict(type='PointCloudMetric', icp=True)]
