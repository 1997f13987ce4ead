"""Several processes that fill one folder. Oracle: one process that fills another one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pano3d.conversion import SceneResult, Share, convert_scannet
from pano3d.conversion.scene_store import (
    finished_scene,
    new_scene,
    record_failure,
    scene_claim,
    write_scene_record,
)
from pano3d.conversion.sharing import convert_scenes

TOOL = Path(__file__).parents[2] / 'tools' / 'prepare_scannet.py'
SCENES = [f'scene{index:04d}_00' for index in range(10)]
PATIENCE = 60


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def start(raw: Path, out: Path, *options: str, **environment: str) -> subprocess.Popen:
    command = [sys.executable, str(TOOL), str(raw), str(out), '--frame-skip', '1', '--num-workers', '1', *options]
    launched = {name: value for name, value in os.environ.items() if 'RANK' not in name and 'SLURM' not in name}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**launched, **environment}
    )


def end(process: subprocess.Popen) -> tuple[int, str]:
    output, errors = process.communicate(timeout=PATIENCE)
    assert 'Traceback' not in errors
    return process.returncode, output


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def raw(release: Any) -> Path:
    for index, scene_id in enumerate(SCENES):
        release.add(scene_id, ('train', 'val', 'test')[index % 3], num_frames=30)
    return release.root


@pytest.fixture
def expected(raw: Path, tmp_path: Path) -> dict[str, bytes]:
    convert_scannet(raw, tmp_path / 'alone', frame_skip=1)
    return snapshot(tmp_path / 'alone')


def converted_here(output: str) -> int:
    line = next(line for line in output.splitlines() if line.startswith('rank '))
    return int(line.split(': ')[1].split(' scenes with ')[0])


def test_two_ranks_do_each_scene_once(raw: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / 'shared'
    ranks = [
        start(raw, out, RANK='0', WORLD_SIZE='2'),
        start(raw, out, SLURM_PROCID='1', SLURM_NTASKS='2'),
    ]
    ends = [end(process) for process in ranks]
    assert [status for status, _ in ends] == [0, 0]
    assert snapshot(out) == expected
    assert sum(converted_here(output) for _, output in ends) == len(SCENES)
    for rank, (_, output) in enumerate(ends):
        assert f'rank {rank} of 2: ' in output
        assert '10 scenes with 300 frames' in output


def test_a_killed_rank_is_replaced_by_the_others(raw: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / 'shared'
    killed = start(raw, out, '--rank', '1', '--world-size', '2')
    wait_for(lambda: list(out.glob('scenes/.*.partial/color/000010.jpg')))
    os.kill(killed.pid, signal.SIGSTOP)  # in the middle of a scene, and it stays there
    finished = len(list(out.glob('scenes/scene*')))
    other = start(raw, out, '--rank', '0', '--world-size', '2')
    wait_for(lambda: len(list(out.glob('scenes/scene*'))) == len(SCENES) - 1)
    assert other.poll() is None, 'it must wait for the scene that is being converted'
    assert not list(out.glob('*.json'))
    killed.kill()
    killed.communicate()
    status, output = end(other)
    assert (status, converted_here(output)) == (0, len(SCENES) - finished)
    assert snapshot(out) == expected


def test_when_all_are_killed_only_unfinished_scenes_are_done_again(
    raw: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / 'shared'
    ranks = [start(raw, out, '--rank', str(rank), '--world-size', '2', '--num-workers', '2') for rank in range(2)]
    wait_for(lambda: len(list(out.glob('scenes/scene*'))) >= 2)
    for process in ranks:
        process.kill()
        process.communicate()
    wait_for(lambda: all(not claimed(out, scene_id) for scene_id in SCENES))  # their workers end by themselves
    marks = {path: path.stat().st_mtime_ns for path in out.glob('scenes/scene*/scene.json')}
    for path in marks:
        prefix = f'scenes/{path.parent.name}/'
        of_scene = {name.removeprefix(prefix): data for name, data in expected.items() if name.startswith(prefix)}
        assert snapshot(path.parent) == of_scene
    (out / 'scenes' / f'.{SCENES[0]}.0123456789ab.stale').mkdir(exist_ok=True)
    (out / '.train.json.0123456789ab.partial').write_text('{')

    ends = [end(start(raw, out, '--rank', str(rank), '--world-size', '3')) for rank in (2, 0, 1)]
    assert [(status, converted_here(output)) for status, output in ends] == [
        (0, len(SCENES) - len(marks)),
        (0, 0),
        (0, 0),
    ]
    assert {path: path.stat().st_mtime_ns for path in marks} == marks
    assert snapshot(out) == expected


def claimed(out: Path, scene_id: str) -> bool:
    with scene_claim(out, scene_id) as mine:
        return not mine


def test_failures_are_counted_by_rank_and_in_total(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / 'shared'
    broken = raw / 'scans' / SCENES[0] / f'{SCENES[0]}.sens'
    content = broken.read_bytes()
    broken.write_bytes(content[:-2000])
    ends = [end(process) for process in [start(raw, out, '--rank', str(rank), '--world-size', '2') for rank in (0, 1)]]
    assert [status for status, _ in ends] == [1, 1]
    for _, output in ends:
        assert '9 scenes with 270 frames' in output
        assert f'failed: {SCENES[0]}: ' in output
    assert sum(converted_here(output) for _, output in ends) == 9
    assert [entry['scene_id'] for entry in json.loads((out / 'train.json').read_text())['data_list']] == SCENES[3::3]

    broken.write_bytes(content)
    status, output = end(start(raw, out, '--rank', '1', '--world-size', '2'))
    assert (status, converted_here(output)) == (0, 1)
    convert_scannet(raw, tmp_path / 'alone', frame_skip=1)
    assert snapshot(out) == snapshot(tmp_path / 'alone')


def test_bad_ranks_are_refused(raw: Path, tmp_path: Path) -> None:
    process = start(raw, tmp_path / 'out', '--rank', '2', '--world-size', '2')
    assert process.communicate(timeout=PATIENCE)[1] == ('error: expected a rank from 0 to world size - 1, got 2 of 2\n')
    assert process.returncode == 2
    assert not (tmp_path / 'out').exists()


class Toy:
    """Converts scenes of one file; scene `b` fails."""

    def __init__(self, out: Path) -> None:
        self.out, self.tried = out, []

    def find(self, scene_id: str) -> SceneResult | None:
        return SceneResult(scene_id, num_frames=1, reused=True) if finished_scene(self.out, scene_id) else None

    def convert(self, scene_id: str) -> SceneResult:
        stored = self.find(scene_id)
        if stored is not None:
            return stored
        self.tried.append(scene_id)
        if scene_id == 'b':
            raise ValueError('broken')
        with new_scene(self.out, scene_id) as folder:
            write_scene_record(folder, {})
        return SceneResult(scene_id, num_frames=1)

    def run(self, *, share: Share) -> dict[str, str | None]:
        lists = {'train': ['a', 'b'], 'val': ['c', 'b']}
        summary = convert_scenes(
            self.out, lists, self.convert, self.find, share=share, num_workers=1, show_progress=False
        )
        return {result.scene_id: result.error for result in summary.results}


def test_a_scene_that_another_rank_converts_meanwhile_is_listed(tmp_path: Path) -> None:
    """It failed here and was mended and converted by a rank that had started later."""
    toy = Toy(tmp_path)
    fails = toy.convert

    def convert(scene_id: str) -> SceneResult:
        if scene_id == 'c':  # after b
            with new_scene(tmp_path, 'b') as folder:
                write_scene_record(folder, {})
        return fails(scene_id)

    toy.convert = convert
    assert toy.run(share=Share()) == {'a': None, 'b': None, 'c': None}
    assert [entry['scene_id'] for entry in json.loads((tmp_path / 'val.json').read_text())['data_list']] == ['c', 'b']


def test_a_failure_of_another_rank_is_not_repeated(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    fails = toy.convert

    def convert(scene_id: str) -> SceneResult:
        record_failure(tmp_path, 'b', 'broken there')  # while this rank is at a
        return fails(scene_id)

    toy.convert = convert
    assert toy.run(share=Share(0, 2)) == {'a': None, 'b': 'broken there', 'c': None}
    assert toy.tried == ['a', 'c']
    toy.convert = fails
    assert toy.run(share=Share(0, 2)) == {'a': None, 'b': 'broken', 'c': None}  # but tried again by the next run
    assert toy.tried == ['a', 'c', 'b']


def test_one_process_leaves_nothing_but_scenes_and_lists(tmp_path: Path) -> None:
    Toy(tmp_path).run(share=Share())
    assert set(snapshot(tmp_path)) == {'train.json', 'val.json', 'scenes/a/scene.json', 'scenes/c/scene.json'}


def test_a_folder_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(file: int, operation: int) -> None:
        raise OSError(37, 'No locks available')

    monkeypatch.setattr('pano3d.conversion.claims.fcntl.flock', no_locks)
    with pytest.raises(ValueError, match='has no file locks'):
        Toy(tmp_path).run(share=Share(0, 2))
