# Evaluation in the loop; what each key means: docs/protocols.md.
val_evaluator = [
    dict(type='ScenePanopticMetric'),
    dict(type='SemanticIoUMetric'),
    dict(type='DepthMetric'),
]
test_evaluator = val_evaluator
