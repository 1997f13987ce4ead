"""What drives training: the loop, checkpoints, checks of the configuration."""

from .checkpoint import load_model_weights
from .config import load_config
from .train_loop import ReproducibleTrainLoop

__all__ = ['ReproducibleTrainLoop', 'load_config', 'load_model_weights']
