# Which frames of a scene an evaluation sees: the first step of a test pipeline, by name (docs/datasets.md).
evaluation_views = dict(
    linspace_20=dict(type='LinspaceViews', num_views=20),
    every_frame=dict(type='AllViews'),
    every_20th=dict(type='StrideViews', stride=20),
    iggt=dict(type='ListedViews', path='data/views/iggt.json'),
    siu3r_pairs=dict(type='ListedViews', path='data/views/siu3r_pairs.json'),
)
