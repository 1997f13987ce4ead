# Both losses fine-tune the decoder, the encoder stays as it was pretrained: what the paper proposes.
regime = dict(frozen_encoder=True)
