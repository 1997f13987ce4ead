"""The benchmark of data loading runs the pipeline of the recipes, and writes what it has measured."""

import json

import data_loading
import pytest


def test_it_writes_what_it_measured(tmp_path, capsys):
    path = tmp_path / 'numbers.json'
    arguments = ['--views', '2', '--size', '28x42', '--samples', '2', '--json', str(path)]
    assert data_loading.main(arguments) == 0
    assert 'LoadViews' in capsys.readouterr().out
    result = json.loads(path.read_text())['result']
    steps = ['scene.json', 'RandomStrideViews', 'LoadViews', 'ResizeCrop', 'ColorJitter', 'PackScene']
    assert list(result['cpu_seconds']) == list(result['median_cpu_seconds']) == steps
    assert all(len(values) == 2 for values in result['cpu_seconds'].values())
    assert result['samples_per_cpu_second'] == pytest.approx(1 / sum(result['median_cpu_seconds'].values()))
    assert result['samples_per_second_of_a_worker'] > 0


def test_samples_are_of_the_given_size(tmp_path):
    data_loading.write_stored_scene(tmp_path, 4, seed=0)
    dataset = data_loading.build_dataset(tmp_path, 3, (28, 42), full_size=True, seed=0)
    assert dataset[0]['inputs'].shape == (3, 3, 28, 42)
    assert len(dataset[0]['data_samples'].gt_panoptic.instance.unique()) > 10


@pytest.mark.parametrize(
    ('arguments', 'message'), [(['--size', '28'], 'HEIGHTxWIDTH'), (['--views', '0'], 'at least 1')]
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        data_loading.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
