"""Measuring: what is counted, in which order, and what the benchmark of the backbones writes."""

import json

import backbones
import pytest
import torch
from measurement import peak_memory, time_alternately
from peers import difference

CPU = torch.device('cpu')
MIB = 2**20


def test_peak_memory_is_what_lives_at_once():
    given = torch.zeros(MIB // 4)  # 1 MiB, which was there before

    def run():
        first = given + 1  # 1 MiB
        second = torch.cat([first, first])  # 3
        del first  # 2
        third = torch.cat([second, second])  # 6: the most
        del second
        return third + 1  # third 4 + result 4 = 8 MiB

    assert peak_memory(run, CPU) == pytest.approx(8 * MIB, rel=1e-3)


def test_memory_of_a_view_is_not_counted_twice():
    assert peak_memory(lambda: torch.zeros(MIB // 4).view(2, -1).transpose(0, 1), CPU) == pytest.approx(MIB, rel=1e-3)


def test_order_is_reversed_every_time():
    calls = []
    times = time_alternately({name: lambda name=name: calls.append(name) for name in 'ab'}, 3, CPU)
    assert calls == ['a', 'b', 'b', 'a', 'a', 'b']
    assert {name: len(values) for name, values in times.items()} == {'a': 3, 'b': 3}


def test_difference_is_relative_and_absolute():
    expected = {'points': torch.tensor([0.0, 9.0])}
    assert difference({'points': torch.tensor([0.5, 9.0])}, expected) == pytest.approx(0.5)
    assert difference({'points': torch.tensor([0.0, 8.0])}, expected) == pytest.approx(0.1)
    with pytest.raises(ValueError, match='depth'):
        difference({'depth': torch.zeros(2)}, expected)


def test_the_benchmark_writes_what_it_measured(tmp_path, capsys):
    path = tmp_path / 'numbers.json'
    arguments = ['--backbone', 'pi3', '--scale', 'tiny', '--views', '3', '--size', '28x56', '--repeats', '2']
    assert backbones.main([*arguments, '--json', str(path)]) == 0
    assert 'pi3' in capsys.readouterr().out
    content = json.loads(path.read_text())
    (result,) = content['results']
    assert content['machine']['torch'] == torch.__version__
    assert (result['backbone'], result['views'], result['size']) == ('pi3', 3, [28, 56])
    assert result['largest_difference'] < 1e-4
    assert result['memory_ratio'] == result['peak_bytes']['ours'] / result['peak_bytes']['plain']
    assert [len(result['seconds'][way]) for way in ('ours', 'plain')] == [2, 2]


def test_wrong_outputs_are_an_error(monkeypatch, capsys):
    monkeypatch.setattr(backbones, 'difference', lambda found, expected: float('nan'))
    assert backbones.main(['--backbone', 'pi3', '--scale', 'tiny', '--repeats', '1']) == 1
    assert "['pi3']" in capsys.readouterr().err


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--size', '224'], 'HEIGHTxWIDTH'),
        (['--repeats', '0'], 'at least 1'),
        (['--backbone', 'dust3r', '--views', '1'], 'at least 2'),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        backbones.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_size_that_no_patch_fits(capsys):
    assert backbones.main(['--backbone', 'pi3', '--scale', 'tiny', '--size', '30x30']) == 2
    assert 'multiples of the patch size' in capsys.readouterr().err
