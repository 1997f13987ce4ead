"""The benchmark of data loading runs the pipeline of the recipes, and writes what it has measured."""

import json

import data_loading
import pytest
import torch


def test_it_writes_what_it_measured(tmp_path, capsys):
    path = tmp_path / 'numbers.json'
    arguments = ['--views', '2', '--size', '28x42', '--samples', '2', '--turns', '2', '--workers', '3']
    assert data_loading.main([*arguments, '--json', str(path)]) == 0
    printed = capsys.readouterr().out
    results = json.loads(path.read_text())['results']
    assert list(results) == ['plain', 'recipe', 'reduced']
    steps = ['scene.json', 'RandomStrideViews', 'LoadViews', 'ResizeCrop', 'ColorJitter', 'PackScene']
    for kind, result in results.items():
        expected = [*steps, 'Unpack'] if kind == 'plain' else steps
        assert list(result['cpu_seconds']) == list(result['median_cpu_seconds']) == expected
        assert all(step in printed for step in expected)
        assert all(len(values) == 4 for values in result['cpu_seconds'].values())
        assert len(result['seconds_of_a_worker']) == 4
        per_sample = sum(result['seconds_of_a_worker']) / 4
        assert result['samples_per_second_of_a_worker'] == pytest.approx(1 / per_sample)
        assert result['shortest_step_seconds'] == pytest.approx(per_sample / 3)
    # colour, depth and two labels; in the plain samples also points twice, confidence, validity and long labels
    pixels = 2 * 28 * 42
    for kind, per_pixel in (('plain', 3 + 12 + 12 + 4 + 1 + 8 + 8), ('recipe', 11), ('reduced', 11)):
        assert 0 <= results[kind]['bytes_per_sample'] - per_pixel * pixels < 20_000


def test_samples_are_of_the_given_size(tmp_path):
    data_loading.write_stored_scene(tmp_path, 4, seed=0)
    samples = {
        kind: data_loading.build_dataset(tmp_path, 3, (28, 42), kind=kind, seed=0)[0] for kind in data_loading.KINDS
    }
    assert all(sample['inputs'].shape == (3, 3, 28, 42) for sample in samples.values())
    assert len(samples['recipe']['data_samples'].gt_panoptic.instance.unique()) > 10
    assert torch.equal(samples['plain']['inputs'], samples['recipe']['inputs'])
    assert not torch.equal(samples['reduced']['inputs'], samples['recipe']['inputs'])
    lifted = samples['recipe']['data_samples'].unpacked()
    assert torch.equal(samples['plain']['data_samples'].gt_reconstruction.points, lifted.gt_reconstruction.points)


@pytest.mark.parametrize(
    ('arguments', 'message'), [(['--size', '28'], 'HEIGHTxWIDTH'), (['--views', '0'], 'at least 1')]
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        data_loading.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
