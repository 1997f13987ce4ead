# ScanNet v2 with the 20 benchmark classes, in the scene format of docs/scene_format.md (tools/prepare_scannet.py).
label_space = 'scannet20'
data_root = 'data/scannet'
image_size = (378, 518)  # height, width
num_views = 15

train_pipeline = [
    dict(type='RandomStrideViews', num_views=num_views, max_stride=4),
    dict(type='LoadViews'),
    dict(type='ResizeCrop', size=image_size),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
    dict(type='PackScene'),
]
test_pipeline = [
    dict(type='LinspaceViews', num_views=num_views),
    dict(type='LoadViews'),
    dict(type='ResizeCrop', size=image_size),
    dict(type='PackScene'),
]
train_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='InfiniteDrawSampler', shuffle=True),
    collate_fn=dict(type='pseudo_collate'),
    dataset=dict(
        type='ScanNetMultiViewDataset',
        data_root=data_root,
        ann_file='train.json',
        label_space=label_space,
        min_frames=num_views,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='pseudo_collate'),
    dataset=dict(
        type='ScanNetMultiViewDataset',
        data_root=data_root,
        ann_file='val.json',
        label_space=label_space,
        pipeline=test_pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
