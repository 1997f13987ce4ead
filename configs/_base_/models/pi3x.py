# Pi3X from pictures alone: Pi3 with convolutional heads and metric scale.
_base_ = 'pi3.py'

model = dict(backbone=dict(type='Pi3XBackbone', multimodal=False))
