from __future__ import annotations

import json
from pathlib import Path

import pytest

from pano3d.conversion.scene_store import (
    finished_scene,
    new_scene,
    remove_leftovers,
    scene_claim,
    scene_folder,
    write_scene_record,
    write_split,
)


def store(out: Path, scene_id: str, value: int) -> None:
    with new_scene(out, scene_id) as folder:
        (folder / f'file{value}').touch()
        write_scene_record(folder, {'value': value})


def listing(out: Path) -> set[str]:
    return {str(path.relative_to(out / 'scenes')) for path in (out / 'scenes').rglob('*')}


def test_a_scene_is_not_there_before_it_is_complete(tmp_path: Path) -> None:
    with new_scene(tmp_path, 'a') as folder:
        write_scene_record(folder, {})
        assert not scene_folder(tmp_path, 'a').exists()
        assert finished_scene(tmp_path, 'a') is None
    assert finished_scene(tmp_path, 'a') == {'format': 'pano3d-scene', 'version': 1}


def test_an_error_leaves_nothing_and_keeps_the_old_scene(tmp_path: Path) -> None:
    store(tmp_path, 'old', 1)
    for scene_id in ('old', 'new'):
        with pytest.raises(KeyboardInterrupt), new_scene(tmp_path, scene_id) as folder:
            (folder / 'half').touch()
            raise KeyboardInterrupt
    assert listing(tmp_path) == {'old', 'old/scene.json', 'old/file1'}


def test_a_new_scene_replaces_the_old_one(tmp_path: Path) -> None:
    store(tmp_path, 'a', 1)
    store(tmp_path, 'a', 2)
    assert listing(tmp_path) == {'a', 'a/scene.json', 'a/file2'}
    assert (finished_scene(tmp_path, 'a') or {})['value'] == 2


def test_leftovers_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    leftovers = ('.a.partial', '.a.0123456789ab.stale', '.b.0123456789ab.partial', '.b.c.0123456789ab.partial')
    for name in leftovers:
        (tmp_path / 'scenes' / name / 'color').mkdir(parents=True)
    (tmp_path / 'scenes' / '.b.lock').touch()  # of a process that has ended
    (tmp_path / 'scenes' / '.other').mkdir()
    store(tmp_path, 'a', 1)
    with scene_claim(tmp_path, 'b.c') as mine:
        assert mine
        remove_leftovers(tmp_path)
        kept = {'a', 'a/scene.json', 'a/file1', '.other'}
        busy = {'.b.c.lock', '.b.c.0123456789ab.partial', '.b.c.0123456789ab.partial/color'}
        assert listing(tmp_path) == kept | busy
    remove_leftovers(tmp_path)
    assert listing(tmp_path) == kept


def test_two_processes_never_fill_the_same_folder(tmp_path: Path) -> None:
    with new_scene(tmp_path, 'a') as first:
        with new_scene(tmp_path, 'a') as second:
            (second / 'second').touch()
        assert (first.exists(), list(first.iterdir())) == (True, [])
        (first / 'first').touch()
    assert listing(tmp_path) == {'a', 'a/first'}


def test_a_scene_that_was_taken_for_a_leftover_is_not_finished(tmp_path: Path) -> None:
    """As where file locks do not hold between machines."""
    with pytest.raises(FileNotFoundError), new_scene(tmp_path, 'a') as folder:
        (folder / 'file1').touch()
        remove_leftovers(tmp_path)
        (folder / 'file2').touch()
    assert listing(tmp_path) == set()


def test_a_scene_is_claimed_once(tmp_path: Path) -> None:
    with scene_claim(tmp_path, 'a') as first, scene_claim(tmp_path, 'a') as second, scene_claim(tmp_path, 'b') as other:
        assert (first, second, other) == (True, False, True)
    with scene_claim(tmp_path, 'a') as again:
        assert again
    assert listing(tmp_path) == set()


def test_a_scene_of_another_version_is_not_finished(tmp_path: Path) -> None:
    for text in ('{"format": "pano3d-scene", "version": 0}', '[]', '{"format"'):
        scene_folder(tmp_path, 'a').mkdir(parents=True, exist_ok=True)
        (scene_folder(tmp_path, 'a') / 'scene.json').write_text(text)
        assert finished_scene(tmp_path, 'a') is None


@pytest.mark.parametrize('scene_id', ['../a', '/a', 'a/b', '.a', '', 'a\n', '..'])
def test_ids_that_lead_elsewhere_are_refused(tmp_path: Path, scene_id: str) -> None:
    with pytest.raises(ValueError, match='scene id'), new_scene(tmp_path, scene_id):
        pass
    assert list(tmp_path.iterdir()) == []


def test_records_hold_finite_numbers_only(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='not JSON compliant'):
        write_scene_record(tmp_path, {'x': float('nan')})
    assert list(tmp_path.iterdir()) == []


def test_split_list(tmp_path: Path) -> None:
    write_split(tmp_path, 'val', [('a', 3), ('b', 1)])
    write_split(tmp_path, 'val', [('b', 1)])
    assert [path.name for path in tmp_path.iterdir()] == ['val.json']
    assert json.loads((tmp_path / 'val.json').read_text()) == {
        'metainfo': {'format': 'pano3d-scenes', 'version': 1, 'split': 'val'},
        'data_list': [{'scene_id': 'b', 'num_frames': 1}],
    }
