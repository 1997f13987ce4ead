# The segmentation loss alone fine-tunes head and decoder; the 3D heads stay as they were pretrained.
regime = dict(frozen_encoder=True, joint_loss=dict(geometry=None))
