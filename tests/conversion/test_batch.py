from __future__ import annotations

import os
import time

import pytest

from pano3d.conversion import ConversionSummary, SceneResult
from pano3d.conversion.batch import run_scenes

SCENES = [f'scene{index}' for index in range(6)]


def convert(scene_id: str) -> SceneResult:
    if scene_id == 'scene1':
        raise ValueError('a.sens: too short')
    if scene_id == 'scene4':
        raise KeyError('surprise')
    return SceneResult(scene_id, num_frames=2, reused=scene_id == 'scene0', warnings=('odd',))


def convert_or_die(scene_id: str) -> SceneResult:
    if scene_id == 'scene2':
        os._exit(1)
    time.sleep(0.1)  # others are still waiting when the worker dies
    return SceneResult(scene_id, num_frames=1)


@pytest.mark.parametrize('num_workers', [1, 3])
def test_an_error_does_not_stop_the_others(num_workers: int) -> None:
    summary = run_scenes(SCENES, convert, num_workers=num_workers, show_progress=False)
    assert [result.scene_id for result in summary.results] == SCENES
    assert {result.scene_id: result.error for result in summary.failed} == {
        'scene1': 'a.sens: too short',
        'scene4': "KeyError: 'surprise'",
    }
    assert [result.scene_id for result in summary.finished] == ['scene0', 'scene2', 'scene3', 'scene5']


def test_the_death_of_a_worker_is_the_failure_of_one_scene() -> None:
    summary = run_scenes(SCENES, convert_or_die, num_workers=2, show_progress=False)
    assert [(result.scene_id, 'died' in (result.error or '')) for result in summary.failed] == [('scene2', True)]
    assert len(summary.finished) == len(SCENES) - 1


def test_summary_counts_and_gives_reasons() -> None:
    text = run_scenes(SCENES, convert, num_workers=1, show_progress=False).describe().splitlines()
    assert text[0] == '4 scenes with 8 frames (1 were finished before), 2 failed'
    assert text[1:4] == [f'warning: {scene_id}: odd' for scene_id in ('scene2', 'scene3', 'scene5')]
    assert text[4:] == ['failed: scene1: a.sens: too short', "failed: scene4: KeyError: 'surprise'"]


def test_no_scenes() -> None:
    assert run_scenes([], convert, num_workers=2, show_progress=False) == ConversionSummary(())
