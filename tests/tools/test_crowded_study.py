"""The study of queries for crowded scenes: what a run trains, that no run is repeated, and what the table says."""

import json
from pathlib import Path

import crowded
import pytest

KEYS = {name: key for name, (key, _) in crowded.COLUMNS.items()}


def result(pq: float, merged: float, **others: float) -> dict:
    metrics = {key: others.get(name, 0.5) for name, key in KEYS.items()} | {KEYS['PQ']: pq, KEYS['merged']: merged}
    return {'metrics': metrics, 'training_seconds': 60.4}


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    return ['--out', str(tmp_path / 'out'), '--data', str(tmp_path / 'rooms'), '--seeds', '0', '1', '--jobs', '1']


def test_runs_differ_by_their_decoder_alone_and_train_the_head_alone(arguments):
    args = crowded.parse_args(arguments)
    configs = {variant: crowded.run_config(args, variant, 3, start=False).to_dict() for variant in crowded.VARIANTS}
    decoders = {variant: config['model']['head'].pop('decoder') for variant, config in configs.items()}
    for config in configs.values():
        config.pop('filename', None)
        assert config == configs['k100']
        assert config['model']['frozen_geometry'] and config['model']['joint_loss']['geometry'] is None
        assert config['randomness']['seed'] == 3 and config['train_cfg']['max_iters'] == args.steps
        assert config['load_from'] == str(crowded.start_file(args))
        assert config['train_dataloader']['dataset']['data_root'] != config['test_dataloader']['dataset']['data_root']
    assert [decoders[name]['num_queries'] for name in ('k100', 'k200', 'k400')] == [100, 200, 400]
    options = {name: sorted(set(d) - set(decoders['k100'])) for name, d in decoders.items()}
    assert options['two_stage'] == ['selection'] and options['anchored'] == ['anchors']
    assert options['two_stage_anchored'] == ['anchors', 'selection']
    start = crowded.run_config(args, 'k100', 0, start=True)
    assert not start.model.frozen_encoder and start.model.joint_loss.geometry is not None and start.load_from is None


def test_finished_runs_are_not_repeated(arguments, monkeypatch, capsys):
    done = []

    def pretend(args, variant: str, seed: str) -> bool:
        done.append((variant, seed))
        if variant != 'start':
            folder = args.out / f'{variant}_{seed}'
            folder.mkdir()
            content = {**result(0.2 + 0.01 * int(seed), 0.1), 'settings': crowded.settings(args)}
            (folder / 'result.json').write_text(json.dumps(content))
        else:
            crowded.start_file(args).touch()
        return True

    monkeypatch.setattr(crowded, 'make_rooms', lambda *args, **options: None)
    monkeypatch.setattr(crowded, 'in_process', pretend)
    few = [*arguments, '--variants', 'k100', 'anchored']
    assert crowded.main(few) == 0
    start = [('start', '0'), ('layout_baseline', '0')]
    assert done == [*start, ('k100', '0'), ('anchored', '0'), ('k100', '1'), ('anchored', '1')]
    first = capsys.readouterr().out
    done.clear()
    assert crowded.main(few) == 0
    assert done == [] and capsys.readouterr().out == first
    # other steps are other runs; results of the old ones are not shown
    args = crowded.parse_args([*few, '--steps', '7'])
    assert crowded.finished(args, 'k100', 0) is None
    assert crowded.finished(crowded.parse_args(few), 'k100', 0)['metrics'][KEYS['PQ']] == 0.2


def test_a_failed_run_is_said(arguments, monkeypatch, capsys):
    monkeypatch.setattr(crowded, 'make_rooms', lambda *args, **options: None)
    monkeypatch.setattr(crowded, 'in_process', lambda args, variant, seed: variant == 'start')
    assert crowded.main([*arguments, '--variants', 'k100']) == 1


def test_the_table_has_means_and_spreads():
    results = {'k100': [result(0.2, 0.3), result(0.4, 0.1)], 'k200': [result(0.25, 0.2)]}
    first, second = crowded.table(results).splitlines()[2:]
    assert first.startswith('| k100 | 2 | 0.300 ± 0.141 | 0.500 ± 0.000 |')
    assert '| 0.200 ± 0.141 |' in first and first.endswith('| 60 |')
    assert second.startswith('| k200 | 1 | 0.250 | 0.500 |')


def test_a_verdict_needs_more_than_the_spread():
    baseline = [result(0.20, 0.30), result(0.22, 0.32)]
    better = [result(0.30, 0.10), result(0.32, 0.12)]
    noisy = [result(0.10, 0.30), result(0.50, 0.32)]
    worse = [result(0.10, 0.50), result(0.12, 0.52)]
    lines = crowded.verdicts({'k100': baseline, 'k200': better, 'k400': noisy, 'anchored': worse})
    assert lines == [
        'k200 against k100: better in PQ, merged; worse in nothing',
        'k400 against k100: better in nothing; worse in nothing',
        'anchored against k100: better in nothing; worse in PQ, merged',
    ]


def test_counts_must_be_positive(arguments):
    with pytest.raises(SystemExit):
        crowded.parse_args([*arguments, '--steps', '0'])
