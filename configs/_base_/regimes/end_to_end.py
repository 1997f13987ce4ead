# Both losses fine-tune everything, the encoder too.
regime = dict(frozen_encoder=False)
