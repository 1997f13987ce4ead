"""Training state survives torch's safe loader."""

import numpy as np
import torch
from mmengine.logging import MessageHub

from pano3d.engine import PlainCheckpointHook


def test_log_history_is_written_as_data_and_comes_back(tmp_path):
    hub = MessageHub.get_instance('test_plain_checkpoint')
    for value in (0.5, 0.25):
        hub.update_scalar('train/loss', np.float64(value))
    hub.update_info('best', np.float64(0.75))
    checkpoint = {'message_hub': hub.state_dict()}
    PlainCheckpointHook().before_save_checkpoint(None, checkpoint)
    torch.save(checkpoint, tmp_path / 'state.pth')

    loaded = torch.load(tmp_path / 'state.pth', weights_only=True)
    PlainCheckpointHook().after_load_checkpoint(None, loaded)
    restored = MessageHub.get_instance('test_plain_checkpoint_restored')
    restored.load_state_dict(loaded['message_hub'])
    assert restored.get_scalar('train/loss').data[0].tolist() == [0.5, 0.25]
    assert restored.get_scalar('train/loss').mean(2) == 0.375
    assert restored.get_info('best') == 0.75
