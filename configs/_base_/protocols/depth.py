# Depth error of views, one scale per view and one per scene, by the rules of IGGT and of Pi3.
depth = [
    dict(type='DepthMetric', protocol='depth_per_view'),
    dict(type='DepthMetric', protocol='depth_mvd'),
    dict(type='DepthMetric', protocol='depth_per_view', rules='pi3'),
    dict(type='DepthMetric', protocol='depth_mvd', rules='pi3'),
]
