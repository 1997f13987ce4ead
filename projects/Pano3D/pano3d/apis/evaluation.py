"""Evaluate a model, or predictions made before, with the protocols of a config."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.runner import Runner

from pano3d.engine import load_model_weights
from pano3d.engine.protocols import select_protocols
from pano3d.evaluation.metric_key import protocol_of
from pano3d.evaluation.scene_results import EvaluationSummary
from pano3d.structures import LabelSpace

from .prediction_file import find_predictions, prediction_files
from .predictions import SavedPredictions, SavePredictions

STATES = 'scene_states'
NUM_WORST = 6
PACKAGE = Path(__file__).parent.parent


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Args:
        summary: the scores.
        label_space: the classes.
        confusion: (C + 1, C + 1) int64 pixels, rows: ground truth, columns: prediction, the last of each: void; or
            None if nothing predicts classes.
        pictures: panels of the worst scenes, worst first.
        source: what was evaluated, by names: config, checkpoint or predictions, data.
        failed: whether something could not be evaluated that should have been.
    """

    summary: EvaluationSummary
    label_space: LabelSpace
    confusion: torch.Tensor | None
    pictures: dict[str, Path]
    source: dict[str, str]
    failed: bool


def evaluate(config: Config, model: BaseModel, work_dir: str | Path) -> dict[str, float]:
    """Run `model` over the test scenes of `config`; metrics by their keys (docs/protocols.md).

    Args:
        config: with `test_dataloader` and `test_evaluator`.
        model: predicts `SceneSample`s; it need not be the model of the config.
        work_dir: folder for the log.
    """
    return {key: float(value) for key, value in _runner(config, model, work_dir).test().items()}


def evaluate_scenes(
    config: Config,
    work_dir: str | Path,
    *,
    checkpoint: str | Path | None = None,
    predictions: str | Path | None = None,
    protocols: list[str] | None = None,
    missing_scenes: str = 'error',
    save_predictions: str | Path | None = None,
    fresh: bool = False,
) -> Evaluation:
    """Evaluate a checkpoint or a folder of predictions, going on where an interrupted evaluation stopped.

    What is known of every scene is kept in `<work_dir>/scene_states/<fingerprint>/`; the fingerprint is that of model,
    weights or predictions, test data, metrics and code.

    Args:
        config: with `model`, `test_dataloader` and `test_evaluator`.
        work_dir: folder for the log, the states and pictures.
        checkpoint: weights of the config's model.
        predictions: folder of predictions, in place of a checkpoint.
        protocols: names, or ['all']; None means those of the config.
        missing_scenes: scenes without prediction are an 'error' or 'empty', see `SavedPredictions`.
        save_predictions: folder to write predictions of the model to.
        fresh: evaluate all scenes, also those evaluated before.

    Raises:
        ValueError: if the arguments contradict each other, the weights or predictions cannot be read, a protocol is
            unknown, or no scene could be evaluated.
    """
    if (checkpoint is None) == (predictions is None):
        raise ValueError('give either a checkpoint or a folder of predictions')
    if predictions is not None and save_predictions is not None:
        raise ValueError('predictions are there already: `save_predictions` needs a checkpoint')
    config = config.copy()
    if protocols is not None:
        config.test_evaluator = select_protocols(config, protocols)
    dataset = config.test_dataloader.dataset
    label_space = LabelSpace.load(dataset.label_space)
    identity = [predictions and prediction_files(predictions), missing_scenes, str(save_predictions)]
    states = Path(work_dir) / STATES / _fingerprint(config, checkpoint, identity)
    config.test_cfg = dict(
        type='SceneTestLoop',
        states=str(states),
        resume=not fresh,
        pictures=str(states / 'pictures'),
        num_pictures=NUM_WORST,
        label_space=dataset.label_space,
        fp16=(config.get('test_cfg') or {}).get('fp16', False),
    )
    if predictions is None:
        # A run would load the start of the training over the weights that are asked for.
        own = {'work_dir': str(work_dir), 'load_from': None, 'resume': False}
        runner = Runner.from_cfg(Config({**config.to_dict(), **own}))
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        load_model_weights(model, checkpoint)
    else:
        model = SavedPredictions(folder=predictions, label_space=label_space, missing_scenes=missing_scenes)
        runner = _runner(config, model, work_dir)
    if save_predictions is not None:
        runner.register_hook(SavePredictions(folder=save_predictions, label_space=label_space))
    runner.test()
    summary = _with_strangers(runner.test_loop.summary, predictions)
    pictures = {scene: states / 'pictures' / f'{scene}.png' for scene in list(summary.scenes)[:NUM_WORST]}
    evaluated = {'checkpoint': str(checkpoint)} if predictions is None else {'predictions': str(predictions)}
    return Evaluation(
        summary=summary,
        label_space=label_space,
        confusion=runner.test_loop.confusion,
        pictures={scene: path for scene, path in pictures.items() if path.is_file()},
        source={'config': str(config.filename), **evaluated, 'data': f'{dataset.data_root}, {dataset.ann_file}'},
        failed=bool(summary.failed or _not_served(summary, protocols)),
    )


def _not_served(summary: EvaluationSummary, protocols: list[str] | None) -> set[str]:
    """Protocols asked for by name that were applied to no scene, in no geometry."""
    served = {protocol_of(prefix) for prefix, scenes in summary.counted.items() if scenes}
    return {name for name in protocols or [] if name != 'all'} - served


def _with_strangers(summary: EvaluationSummary, predictions: str | Path | None) -> EvaluationSummary:
    """The summary with a note on every prediction that belongs to no scene."""
    files = {} if predictions is None else find_predictions(predictions)
    strangers = sorted(files.keys() - set(summary.scene_ids))
    return replace(summary, notes=summary.notes | dict.fromkeys(strangers, 'a prediction of no scene of these data'))


def _runner(config: Config, model: BaseModel, work_dir: str | Path) -> Runner:
    """A runner that only tests `model`."""
    return Runner(
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


def _fingerprint(config: Config, checkpoint: str | Path | None, identity: list[Any]) -> str:
    """Sixteen digits that change with everything that scores depend on."""
    dataset = config.test_dataloader.dataset
    split = Path(dataset.data_root) / dataset.ann_file
    described = [
        [_digest(path) for path in sorted(PACKAGE.rglob('*.py'))],  # scores depend on the code, too
        config.to_dict().get('model') if checkpoint else None,
        dataset.to_dict(),
        config.to_dict()['test_evaluator'],
        _digest(split) if split.is_file() else None,
        _digest(Path(checkpoint)) if checkpoint else None,
        *identity,
    ]
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()
