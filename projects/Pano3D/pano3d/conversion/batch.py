"""Going through many scenes: worker processes, progress, and a summary that says what failed and why."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from tqdm import tqdm

from .share import Share


@dataclass(frozen=True)
class SceneResult:
    """What became of one scene.

    Args:
        scene_id: its name.
        num_frames: stored frames.
        reused: whether this process has not tried it: a finished scene with the same settings was kept, or another
            process has failed on it.
        warnings: what was odd but did not stop the conversion.
        error: why there is no scene; None if there is one.
    """

    scene_id: str
    num_frames: int = 0
    reused: bool = False
    warnings: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class ConversionSummary:
    """Results of a run, in the order of the scene lists."""

    results: tuple[SceneResult, ...]

    @property
    def finished(self) -> tuple[SceneResult, ...]:
        return tuple(result for result in self.results if result.error is None)

    @property
    def failed(self) -> tuple[SceneResult, ...]:
        return tuple(result for result in self.results if result.error is not None)

    def describe(self, share: Share | None = None) -> str:
        """A few lines: counts, then warnings of the scenes converted now, then failed scenes with their reasons.

        Args:
            share: whose summary it is; if it is one of several, the counts of its own come first.
        """
        reused = sum(result.reused for result in self.finished)
        frames = sum(result.num_frames for result in self.finished)
        lines, before = [], 'before'
        if share is not None and share.world_size > 1:
            here = [result for result in self.results if not result.reused]
            done = [result.num_frames for result in here if result.error is None]
            lines.append(
                f'rank {share.rank} of {share.world_size}: {len(done)} scenes with {sum(done)} frames converted here, '
                f'{len(here) - len(done)} failed here'
            )
            before = 'before or by other ranks'
        lines.append(
            f'{len(self.finished)} scenes with {frames} frames ({reused} were finished {before}), '
            f'{len(self.failed)} failed'
        )
        lines += [
            f'warning: {result.scene_id}: {warning}'
            for result in self.finished
            if not result.reused
            for warning in result.warnings
        ]
        lines += [f'failed: {result.scene_id}: {result.error}' for result in self.failed]
        return '\n'.join(lines)


def run_scenes(
    scene_ids: Sequence[str], convert: Callable[[str], SceneResult], *, num_workers: int, show_progress: bool
) -> ConversionSummary:
    """Convert scenes, each on its own: an error in one is recorded and the others go on.

    Args:
        scene_ids: scenes, each once.
        convert: converts one scene; must be picklable if there are several workers.
        num_workers: processes; 1 means this one.
        show_progress: draw a bar with rate and remaining time on stderr.
    """
    results = {}
    with tqdm(total=len(scene_ids), unit='scene', disable=not show_progress) as bar:
        for result in iterate_scenes(scene_ids, convert, num_workers=num_workers):
            results[result.scene_id] = result
            bar.update()
    return ConversionSummary(tuple(results[scene_id] for scene_id in scene_ids))


def iterate_scenes(
    scene_ids: Sequence[str], convert: Callable[[str], SceneResult], *, num_workers: int
) -> Iterator[SceneResult]:
    """What `run_scenes` does, each result as it comes."""
    if num_workers == 1:
        yield from (guarded(convert, scene_id) for scene_id in scene_ids)
        return
    stranded = []
    for scene_id, result in _pooled(scene_ids, convert, num_workers):
        if result is None:
            stranded.append(scene_id)
        else:
            yield result
    # A worker that dies takes all scenes that wait with it. Alone, each of them shows whether it was the cause.
    for scene_id in stranded:
        for _, result in _pooled([scene_id], convert, 1):
            yield result or SceneResult(scene_id, error='its worker process died, perhaps for lack of memory')


def _pooled(
    scene_ids: Sequence[str], convert: Callable[[str], SceneResult], num_workers: int
) -> Iterator[tuple[str, SceneResult | None]]:
    """Results as they come; None for scenes whose worker process died before they were done."""
    with ProcessPoolExecutor(max(1, min(num_workers, len(scene_ids))), initializer=_end_with_parent) as pool:
        futures = {}
        try:
            for scene_id in scene_ids:
                try:
                    futures[pool.submit(guarded, convert, scene_id)] = scene_id
                except BrokenProcessPool:
                    yield scene_id, None
            for future in as_completed(futures):
                try:
                    result = future.result()
                except BrokenProcessPool:
                    result = None
                yield futures[future], result
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def guarded(convert: Callable[[str], SceneResult], scene_id: str) -> SceneResult:
    """The result of `convert`; an error becomes a result, too."""
    try:
        return convert(scene_id)
    except (ValueError, OSError) as error:
        return SceneResult(scene_id, error=str(error))
    except Exception as error:  # whatever one scene does, the others go on
        return SceneResult(scene_id, error=f'{type(error).__name__}: {error}')


def _end_with_parent() -> None:
    """End this worker when its parent has been killed; otherwise it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_after, args=(parent.sentinel,), daemon=True).start()


def _exit_after(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
