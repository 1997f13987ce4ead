# Right in space and in class.
voxels = [dict(type='VoxelMetric', per_class=True)]
