# COCO mask AP of views.
instances = [dict(type='ImageInstanceMetric', per_class=True)]
