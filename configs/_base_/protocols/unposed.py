# FAST3DIS: instances that our own points carry.
unposed = [dict(type='UnposedInstanceMetric')]
