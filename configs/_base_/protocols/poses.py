# Relative and absolute camera poses.
poses = [dict(type='PosePairMetric'), dict(type='TrajectoryMetric')]
