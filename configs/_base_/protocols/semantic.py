# Classes of pixels.
semantic = [
    dict(type='SemanticIoUMetric', per_class=True),
    dict(type='SemanticIoUMetric', read_out='panoptic'),
    dict(type='SemanticIoUMetric', rules='siu3r'),
]
