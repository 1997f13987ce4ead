# Evaluation in the loop; what each metric key means: docs/protocols.md.
val_evaluator = [
    dict(type='ScenePanopticMetric', label_space='scannet20'),
    dict(type='SemanticIoUMetric', label_space='scannet20'),
    dict(type='DepthMetric', protocol='depth_per_view'),
    dict(type='DepthMetric', protocol='depth_mvd'),
]
test_evaluator = val_evaluator
