# The head alone learns, on features of a reconstruction network that stays as it was pretrained.
regime = dict(frozen_encoder=True, frozen_geometry=True, joint_loss=dict(geometry=None))
