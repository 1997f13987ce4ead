# The same at a size that patches of 16 pixels divide.
_base_ = 'scannet20.py'

image_size = (384, 512)
train_pipeline = _base_.train_pipeline
test_pipeline = _base_.test_pipeline
train_pipeline[2].size = test_pipeline[2].size = image_size

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
