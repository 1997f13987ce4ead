"""A test loop that goes on where it was interrupted, and past scenes that are broken."""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from mmengine.dist import all_gather_object, get_rank, get_world_size, is_main_process
from mmengine.evaluator import Evaluator
from mmengine.runner import BaseLoop, Runner
from mmengine.runner.amp import autocast
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from pano3d.evaluation.confusion_metric import ConfusionCounter
from pano3d.evaluation.scene_results import (
    WHOLE_SCENE,
    EvaluationSummary,
    SceneResult,
    describe,
    measure_scene,
    result_from_state,
    scene_scores,
    summarize_scenes,
)
from pano3d.evaluation.state_file import read_state, write_state
from pano3d.registry import LOOPS
from pano3d.structures import LabelSpace, SceneSample
from pano3d.visualization.panels import draw_panels, spread_views

HOPELESS = 5
"""After so many scenes without a single success the fault is not the scenes'."""


@LOOPS.register_module()
class SceneTestLoop(BaseLoop):
    """mmengine's `TestLoop`, scene by scene: each is loaded once, predicted once, and measured by all metrics.

    What the metrics keep of a scene is stored in `states` as soon as it is known. A scene that cannot be loaded,
    predicted or measured is reported, and the others go on. Processes share the scenes, none is repeated. After `run`,
    `summary` and `confusion` hold what the returned scores do not say.

    Args:
        runner: mmengine's.
        dataloader: of the test data; its data set and number of workers are used, a batch is one scene.
        evaluator: mmengine's, with any metrics whose states `write_state` can store.
        states: folder of the states, for this model, these data and these metrics alone; None stores nothing.
        resume: do not predict scenes again that have a state.
        pictures: folder for panels of the worst scenes, `<scene>.png`; None draws nothing.
        num_pictures: how many scenes are the worst.
        label_space: counts which of its classes are taken for which; None does not.
        fp16: predict under autocast.
    """

    summary: EvaluationSummary
    confusion: torch.Tensor | None = None

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict,
        evaluator: Evaluator | dict | list,
        *,
        states: str | None = None,
        resume: bool = True,
        pictures: str | None = None,
        num_pictures: int = 6,
        label_space: str | None = None,
        fp16: bool = False,
    ) -> None:
        super().__init__(runner, dataloader)
        self.evaluator = runner.build_evaluator(evaluator) if isinstance(evaluator, dict | list) else evaluator
        self.evaluator.dataset_meta = getattr(self.dataloader.dataset, 'metainfo', None)
        self.metrics = list(self.evaluator.metrics)
        prefixes = [metric.prefix for metric in self.metrics]
        if len(set(prefixes)) < len(prefixes):
            raise ValueError(f'metrics must have different prefixes, got {sorted(prefixes)}')
        self.counter = ConfusionCounter(label_space=LabelSpace.load(label_space)) if label_space else None
        self.states = Path(states) if states else None
        self.resume = resume
        self.pictures = Path(pictures) if pictures else None
        self.num_pictures = num_pictures
        self.fp16 = fp16

    def run(self) -> dict[str, float]:
        """Scores by their keys.

        Raises:
            ValueError: if no scene could be evaluated.
        """
        self.runner.call_hook('before_test')
        self.runner.call_hook('before_test_epoch')
        self.runner.model.eval()
        shares = all_gather_object(self._run_share())
        merged = {index: result for share in shares for index, result in share.items()}
        results = [merged[index] for index in sorted(merged)]
        self.summary = summarize_scenes(results, self.metrics)
        if self.counter:
            counted = [r.states[self.counter.prefix] for r in results if self.counter.prefix in r.states]
            self.confusion = self.counter.matrix([pairs for [pairs] in counted]) if counted else None
        metrics = dict(self.summary.metrics)
        self.runner.call_hook('after_test_epoch', metrics=metrics)
        self.runner.call_hook('after_test')
        return metrics

    def _run_share(self) -> dict[int, SceneResult]:
        """Results of the scenes of this process, by their number in the data set."""
        dataset = self.dataloader.dataset
        share = range(get_rank(), len(dataset), get_world_size())
        results = {index: stored for index in share if (stored := self._stored(index))}
        self._scores = list(scene_scores(list(results.values()), self.metrics).values())
        rest = [index for index in share if index not in results]
        attempts = DataLoader(
            _Attempts(dataset, rest), batch_size=None, num_workers=self.dataloader.num_workers, collate_fn=_unchanged
        )
        if results and is_main_process():
            self.runner.logger.info(f'{len(results)} scenes were evaluated before: {self.states}')
        bar = tqdm(
            attempts,
            total=len(share),
            initial=len(results),
            desc='evaluation',
            unit='scene',
            disable=not is_main_process(),
        )
        for index, item, problem in bar:
            results[index] = self._evaluate(index, item, problem)
            failed = [result for result in results.values() if not result.states]
            if len(failed) == len(results) >= HOPELESS:
                break
        return results

    @torch.no_grad()
    def _evaluate(self, index: int, item: Any, problem: tuple[str, str] | None) -> SceneResult:
        name = f'scene number {index}'
        if problem is None:
            name = str(item['data_samples'].get('scene_id', name))
            try:
                sample = self._predict(index, item)
            except Exception as error:  # one scene must not cost the others
                problem = describe(error), traceback.format_exc()
        if problem is not None:
            self._warn(name, problem[0], problem[1])
            return SceneResult(scene_id=name, failed={WHOLE_SCENE: problem[0]})
        result = self._measure(sample)
        for prefix, reason in result.failed.items():
            self._warn(name, f'{prefix}: {reason}' if prefix not in reason else reason)
        self._draw(sample, result)
        if self.states and not result.failed:
            write_state(self._file(index), result.as_state())
        return result

    def _measure(self, sample: SceneSample) -> SceneResult:
        """By all metrics and the counter of classes, of whose failures nobody need hear."""
        if self.counter is None:
            return measure_scene(sample, self.metrics)
        result = measure_scene(sample, [*self.metrics, self.counter])
        missing, failed = (
            {prefix: reason for prefix, reason in reasons.items() if prefix != self.counter.prefix}
            for reasons in (result.missing, result.failed)
        )
        return replace(result, missing=missing, failed=failed)

    def _predict(self, index: int, item: Any) -> SceneSample:
        batch = pseudo_collate([item])
        self.runner.call_hook('before_test_iter', batch_idx=index, data_batch=batch)
        with autocast(enabled=self.fp16):
            outputs = self.runner.model.test_step(batch)
        self.runner.call_hook('after_test_iter', batch_idx=index, data_batch=batch, outputs=outputs)
        [sample] = outputs
        return sample

    def _draw(self, sample: SceneSample, result: SceneResult) -> None:
        """A picture of the scene if it is among the worst so far; so the worst of all have one in the end."""
        score = scene_scores([result], self.metrics).get(result.scene_id, math.nan)
        worse = sum(other < score for other in self._scores)
        self._scores.append(score)
        if self.pictures is None or math.isnan(score) or worse >= self.num_pictures or 'images' not in sample:
            return
        space = LabelSpace.load(sample.get('label_space'))
        self.pictures.mkdir(parents=True, exist_ok=True)
        picture = draw_panels(sample, space, spread_views(len(sample.images), 3))
        Image.fromarray(picture).save(self.pictures / f'{result.scene_id}.png')

    def _stored(self, index: int) -> SceneResult | None:
        if self.states is None or not self.resume or not self._file(index).is_file():
            return None
        try:
            return result_from_state(read_state(self._file(index)))
        except (ValueError, TypeError) as error:
            self._warn(str(self._file(index)), f'evaluated again: {error}')
            return None

    def _file(self, index: int) -> Path:
        return self.states / f'{index:06d}.npz'

    def _warn(self, name: str, reason: str, details: str = '') -> None:
        tqdm.write('')  # ends the line of the bar
        self.runner.logger.log(logging.WARNING, f'{name}: {reason}')
        if details:
            self.runner.logger.debug(details)


class _Attempts(Dataset):
    """Samples of a data set with their number, or why there is none."""

    def __init__(self, dataset: Dataset, indices: Sequence[int]) -> None:
        self.dataset = dataset
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[int, Any, tuple[str, str] | None]:
        index = self.indices[position]
        try:
            return index, self.dataset[index], None
        except Exception as error:  # one scene must not cost the others
            return index, None, (describe(error), traceback.format_exc())


def _unchanged(sample: Any) -> Any:
    return sample
