"""The benchmark of the evaluation: scores are compared before times, and what is left out is named."""

import json

import evaluation
import numpy as np
import pytest
import torch
from evaluators import plain_panoptic_quality
from measurement import peak_process_memory
from rooms import NUM_STUFF, random_points, random_room, without_overlap

TINY = ['--scenes', '2', '--slow-scenes', '1', '--views', '2', '--size', '24x32']
TINY += ['--points', '2000', '--proposals', '9', '--repeats', '2']


@pytest.fixture
def only_plain(monkeypatch):
    monkeypatch.setattr(evaluation, 'missing', lambda module: None if module == 'numpy' else f'{module} is absent')


@pytest.mark.slow
def test_all_installed_evaluators_agree(capsys):
    assert evaluation.main(TINY) == 0
    assert 'plain NumPy' in capsys.readouterr().out


def test_the_benchmark_compares_scores_and_writes_what_it_measured(tmp_path, capsys, only_plain):
    path = tmp_path / 'numbers.json'
    assert evaluation.main([*TINY, '--json', str(path)]) == 0
    printed = capsys.readouterr().out
    content = json.loads(path.read_text())
    rows = {(row['task'].split(' ')[0], row['evaluator']): row for row in content['results']}
    for protocol in ('pq_scene_pooled', 'pq_view'):
        row = rows[protocol, 'plain NumPy']
        assert row['difference'] < 1e-9
        assert 0 < row['scores']['PQ'] < 1
        assert row['ratio'] == row['median_seconds'] / rows[protocol, 'ours']['median_seconds']
        assert len(row['seconds']) == 2
    assert content['skipped']['hotcoco'] == 'hotcoco is absent'
    assert all(f'skipped: {name}, {reason}' in printed for name, reason in content['skipped'].items())


def test_other_scores_are_an_error(monkeypatch, capsys, only_plain):
    wrong = {'PQ': 0.5, 'SQ': 0.5, 'RQ': 0.5}
    monkeypatch.setattr('evaluators.plain_panoptic_quality', lambda pairs: wrong)
    assert evaluation.main(TINY) == 1
    assert 'plain NumPy' in capsys.readouterr().err


def test_plain_panoptic_quality_by_hand():
    # id = 32 x instance + class + 1; class 2: 4 of 5 pixels right; class 3 missed; void on both sides is free
    gt = np.array([[35, 35, 35, 35, 35, 68, 0, 0]])
    predicted = np.array([[35, 35, 35, 35, 0, 0, 0, 99]])
    scores = plain_panoptic_quality([(gt, predicted)])
    assert scores == pytest.approx({'PQ': 0.8 / 2, 'SQ': 0.8 / 2, 'RQ': 1 / 2})


def test_rooms_are_the_same_for_a_seed_and_have_all_kinds_of_labels():
    gt, predicted = random_room(3, 48, 64, seed=1)
    again, _ = random_room(3, 48, 64, seed=1)
    assert gt.category.equal(again.category)
    assert not gt.category.equal(random_room(3, 48, 64, seed=2)[0].category)
    for labels in (gt, predicted):
        assert labels.category.min() == -1
        assert ((labels.category >= NUM_STUFF) == (labels.instance > 0)).all()
    assert not gt.category.equal(predicted.category)


def test_masks_on_points_overlap_or_not():
    _, proposals = random_points(2000, 30, seed=0)
    assert proposals.masks.sum(0).max() > 1
    disjoint = without_overlap(proposals).masks
    assert disjoint.sum(0).max() == 1
    assert disjoint.any(0).equal(proposals.masks.any(0))


def test_memory_of_the_process_sees_every_allocation():
    size = 64 * 2**20
    for run in (lambda: np.ones(size, np.uint8).max(), lambda: torch.ones(size, dtype=torch.uint8).max()):
        peak = peak_process_memory(run)
        if peak is None:
            pytest.skip('needs Linux with glibc')
        assert peak == pytest.approx(size, rel=0.2)


@pytest.mark.parametrize(('arguments', 'message'), [(['--size', '8x8'], '16x16'), (['--scenes', '0'], 'at least 1')])
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        evaluation.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
