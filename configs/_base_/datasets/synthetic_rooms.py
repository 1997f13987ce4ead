# Made-up rooms in the same format (tools/make_synthetic_scannet.py), 4 small views of each.
_base_ = 'scannet20.py'

image_size = (84, 112)
num_views = 4
train_pipeline = _base_.train_pipeline
test_pipeline = _base_.test_pipeline
train_pipeline[0].num_views = test_pipeline[0].num_views = num_views
train_pipeline[2].size = test_pipeline[2].size = image_size
train_pipeline[3].update(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.0)

train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root='data/synthetic_rooms/train', min_frames=num_views, pipeline=train_pipeline),
)
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root='data/synthetic_rooms/held_out', pipeline=test_pipeline),
)
test_dataloader = val_dataloader
