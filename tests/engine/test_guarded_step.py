"""Steps on values that are not finite: skipped, counted, named, and ended."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from pano3d.engine import GuardedAmpOptimWrapper, GuardedOptimWrapper, TrainingDivergedError
from pano3d.structures import SceneSample

NAN, INF = float('nan'), float('inf')


class Line(BaseModel):
    """loss = slope * x, so the gradient is x; 'late' makes the gradient infinite and leaves the loss finite."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(1.0))

    def forward(self, inputs, data_samples=None, mode='loss'):
        x = torch.stack(list(inputs)).mean()
        if x == -1:
            return {'loss_line': (self.slope - self.slope.detach()).sqrt()}
        return {'loss_line': self.slope * x}


class Values(Dataset):
    def __init__(self, values: list[float]) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> dict:
        sample = SceneSample(metainfo=dict(scene_id=f'scene{index}', frame_ids=['10', '20']))
        return {'inputs': torch.tensor(self.values[index]), 'data_samples': sample}


def train(folder: Path, values: list[float], *, max_in_a_row: int = 10, **wrapper: object) -> Runner:
    loader = dict(
        dataset=Values(values), sampler=dict(type='DefaultSampler', shuffle=False), batch_size=1, num_workers=0
    )
    settings = dict(type='GuardedOptimWrapper', optimizer=dict(type='Adam', lr=0.1), **wrapper)
    hooks = dict(
        checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1),
        plain_checkpoint=dict(type='PlainCheckpointHook'),
        non_finite_step=dict(type='NonFiniteStepHook', max_in_a_row=max_in_a_row),
    )
    runner = Runner(
        model=Line(),
        work_dir=str(folder),
        train_dataloader=loader,
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=len(values)),
        optim_wrapper=settings,
        default_hooks=hooks,
        default_scope='pano3d',
        log_level='ERROR',
        experiment_name=f'{folder.parent.name}_{folder.name}',  # each its own log history
    )
    runner.train()
    return runner


def slope(runner: Runner) -> float:
    return runner.model.slope.item()


@pytest.mark.parametrize('bad', [NAN, INF, -1.0], ids=['nan loss', 'infinite loss', 'infinite gradient'])
def test_a_bad_step_leaves_no_trace_in_parameters_and_optimiser(tmp_path, bad):
    with_bad = train(tmp_path / 'bad', [1.0, bad, 2.0])
    without = train(tmp_path / 'good', [1.0, 2.0])
    assert slope(with_bad) == slope(without) != 1.0
    states = [runner.optim_wrapper.state_dict()['state'][0] for runner in (with_bad, without)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert with_bad.message_hub.get_scalar('train/skipped_steps').current() == 1
    assert 'train/skipped_steps' not in without.message_hub.log_scalars


def test_the_sample_and_the_term_are_named(tmp_path):
    with pytest.raises(TrainingDivergedError) as error:
        train(tmp_path / 'ended', [1.0, 1.0, NAN], max_in_a_row=1)
    for part in (
        'step 3',
        'the loss is not finite',
        'scene2, frames 10, 20',
        '[loss, loss_line]',
        '1 such steps in a row',
    ):
        assert part in str(error.value)


def test_training_ends_after_so_many_in_a_row_and_the_last_checkpoint_is_good(tmp_path):
    values = [1.0, NAN, NAN, 1.0, NAN, INF, -1.0, 1.0]
    with pytest.raises(TrainingDivergedError, match=r'step 7: the gradient is not finite.* 3 such steps in a row'):
        train(tmp_path / 'run', values, max_in_a_row=3)
    last = (tmp_path / 'run' / 'last_checkpoint').read_text()
    assert last.endswith('iter_6.pth')
    kept = torch.load(last, weights_only=True)
    assert kept['state_dict']['slope'].isfinite()
    assert kept['state_dict']['slope'] == torch.tensor(slope(train(tmp_path / 'good', [1.0, 1.0])))


def test_a_bad_batch_spoils_the_update_it_belongs_to_and_no_other(tmp_path):
    spoilt = train(tmp_path / 'spoilt', [1.0, 2.0, NAN, 5.0, 3.0, 4.0], accumulative_counts=2)
    clean = train(tmp_path / 'clean', [1.0, 2.0, 3.0, 4.0], accumulative_counts=2)
    assert slope(spoilt) == slope(clean)
    assert spoilt.message_hub.get_scalar('train/skipped_steps').current() == 1


def test_accumulated_batches_are_one_batch(tmp_path):
    many = train(tmp_path / 'many', [1.0, 3.0, 2.0, 6.0], accumulative_counts=2)
    one = train(tmp_path / 'one', [2.0, 4.0])
    assert slope(many) == pytest.approx(slope(one))


@pytest.mark.parametrize('clip', [dict(max_norm=0.5), dict(type='value', clip_value=0.5)])
def test_clipping_is_that_of_mmengine(clip):
    finals = []
    for kind in ('GuardedOptimWrapper', 'OptimWrapper'):
        torch.manual_seed(0)
        layer = nn.Linear(3, 2)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        cls = GuardedOptimWrapper if kind.startswith('Guarded') else GuardedOptimWrapper.__mro__[1]
        wrapper = cls(optimizer=optimizer, clip_grad=copy.deepcopy(clip))
        wrapper.update_params(10 * layer(torch.ones(4, 3)).square().sum())
        finals.append(torch.cat([parameter.detach().flatten() for parameter in layer.parameters()]))
    assert torch.equal(*finals)


class TestLossScale:
    @pytest.fixture
    def make(self, monkeypatch):
        """mmengine's wrapper wants a GPU; torch's scaler works on the CPU as well."""
        module = 'mmengine.optim.optimizer.amp_optimizer_wrapper'
        monkeypatch.setattr(f'{module}.is_cuda_available', lambda: True)
        monkeypatch.setattr(f'{module}.GradScaler', partial(torch.amp.GradScaler, 'cpu'))

        def build(scale: float) -> tuple[nn.Parameter, GuardedAmpOptimWrapper]:
            weight = nn.Parameter(torch.tensor(1.0))
            options = dict(init_scale=scale, growth_interval=1000)
            return weight, GuardedAmpOptimWrapper(optimizer=torch.optim.SGD([weight], lr=0.1), loss_scale=options)

        return build

    def test_the_step_is_that_without_scale(self, make):
        weight, wrapper = make(1024.0)
        wrapper.update_params(weight * 3)
        assert weight.item() == pytest.approx(0.7) and wrapper.updated and wrapper.problem is None

    def test_an_overflow_lowers_the_scale_and_is_no_problem_yet(self, make):
        weight, wrapper = make(4.0)
        for expected, problem in ((2.0, None), (1.0, None), (0.5, 'gradient')):
            wrapper.update_params((weight - weight.detach()).sqrt())  # infinite gradient of a finite loss
            assert (wrapper.loss_scaler.get_scale(), wrapper.problem) == (expected, problem)
        assert weight.item() == 1.0 and not wrapper.updated

    def test_a_bad_loss_is_a_problem_at_once(self, make):
        weight, wrapper = make(65536.0)
        wrapper.update_params(weight * NAN)
        assert wrapper.problem == 'loss' and weight.item() == 1.0
        wrapper.update_params(weight * 1.0)
        assert weight.item() == pytest.approx(0.9)
