# VGGT-1B: all views attend to each other. Sizes are those of the released network.
_base_ = 'pano3d.py'

model = dict(
    backbone=dict(type='VGGTBackbone', heads=('camera', 'depth')),
    head=dict(bridge=dict(encoder_dim=1024, decoder_dim=2048)),
    joint_loss=dict(geometry=dict(type='VGGTCriterion')),
)
