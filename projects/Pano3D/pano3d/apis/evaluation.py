"""Evaluate a model with the protocols of its config."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import Runner


def evaluate(config: Config, model: BaseModel, work_dir: str | Path) -> dict[str, float]:
    """Run `model` over the test scenes of `config`; metrics by their keys (docs/protocols.md).

    Args:
        config: with `test_dataloader` and `test_evaluator`.
        model: predicts `SceneSample`s; it need not be the model of the config.
        work_dir: folder for the log.
    """
    runner = Runner(
        model=model,
        work_dir=str(work_dir),
        test_dataloader=config.test_dataloader,
        test_cfg=config.test_cfg,
        test_evaluator=config.test_evaluator,
        default_scope=config.default_scope,
        randomness=config.randomness,
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1000)),
        log_processor=config.log_processor,
        log_level='WARNING',
        experiment_name=f'evaluate_{Path(work_dir).name}_{id(model)}',
        cfg=config,
    )
    return {key: float(value) for key, value in runner.test().items()}
