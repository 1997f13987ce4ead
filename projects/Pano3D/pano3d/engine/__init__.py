"""What drives a run: its configuration, its inputs, the training loop, checkpoints."""

from .checkpoint import load_model_weights
from .config import load_config
from .guarded_step import GuardedAmpOptimWrapper, GuardedOptimWrapper, NonFiniteStepHook, TrainingDivergedError
from .joint_training import JointTrainingHook
from .launch import check_inputs, configure_processes
from .optimizer import PartOptimWrapperConstructor
from .plain_checkpoint import PlainCheckpointHook
from .protocols import select_protocols
from .scene_test_loop import SceneTestLoop
from .sharded import ShardedStrategy
from .task_gradients import TaskGradientHook
from .train_loop import ReproducibleTrainLoop

__all__ = [
    'GuardedAmpOptimWrapper',
    'GuardedOptimWrapper',
    'JointTrainingHook',
    'NonFiniteStepHook',
    'PartOptimWrapperConstructor',
    'PlainCheckpointHook',
    'ReproducibleTrainLoop',
    'SceneTestLoop',
    'ShardedStrategy',
    'TaskGradientHook',
    'TrainingDivergedError',
    'check_inputs',
    'configure_processes',
    'load_config',
    'load_model_weights',
    'select_protocols',
]
