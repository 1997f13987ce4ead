# UNITE: labels carried to the mesh of the scene, by the true geometry and by our own.
mesh = [dict(type='UniteMeshMetric')]
