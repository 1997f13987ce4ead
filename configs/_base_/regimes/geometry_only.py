# The reconstruction network is fine-tuned by its own loss; nothing is segmented.
regime = dict(frozen_encoder=True, joint_loss=dict(segmentation=None))
