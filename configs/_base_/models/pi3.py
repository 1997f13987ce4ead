# Pi3: all views attend to each other, none is special. One of the paper's two.
_base_ = 'pano3d.py'

model = dict(
    backbone=dict(type='Pi3Backbone'),
    head=dict(bridge=dict(encoder_dim=1024, decoder_dim=2048)),
    joint_loss=dict(geometry=dict(type='Pi3Criterion')),
)
