# Panoptic quality of views: the headline, the readings that other tables use, and merged things (docs/protocols.md).
# Label spaces that are not given here are those of the data set.
panoptic = [
    dict(type='ScenePanopticMetric', per_class=True),
    dict(type='ScenePanopticMetric', rules='torchmetrics'),
    dict(type='ScenePanopticMetric', rules='panoptic_lifting'),
    dict(type='ScenePanopticMetric', protocol='pq_view'),
    dict(type='ScenePanopticMetric', protocol='pq_scene_pooled'),
    dict(type='MergedInstanceMetric'),
]
