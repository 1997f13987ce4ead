"""Lines of a config that change how training runs, each seen to take effect."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.registry import PARAM_SCHEDULERS, DefaultScope
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from pano3d.engine import PartOptimWrapperConstructor, load_config
from pano3d.models.parts import part_of
from pano3d.registry import MODELS

CONFIGS = Path(__file__).parents[2] / 'configs'


class Line(BaseModel):
    """loss = slope * x: gradient x."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(1.0))

    def forward(self, inputs, data_samples=None, mode='loss'):
        return {'loss': self.slope * torch.stack(list(inputs)).mean()}


class Values(Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict:
        return {'inputs': torch.tensor(float(index + 1))}


def runner_of(folder: Path, steps: int, *, resume: Path | None = None, **settings: object) -> Runner:
    loader = dict(dataset=Values(), sampler=dict(type='DefaultSampler', shuffle=False), batch_size=1, num_workers=0)
    hooks = dict(
        checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1),
        plain_checkpoint=dict(type='PlainCheckpointHook'),
    )
    return Runner(
        model=Line(),
        work_dir=str(folder),
        train_dataloader=loader,
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=steps),
        optim_wrapper=dict(type='GuardedOptimWrapper', optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=hooks,
        default_scope='pano3d',
        log_level='ERROR',
        experiment_name=f'{folder.parent.name}_{folder.name}',
        load_from=resume and str(resume),
        resume=resume is not None,
        **settings,
    )


class TestMovingAverage:
    EMA = [dict(type='EMAHook', momentum=0.25)]

    def test_it_is_the_average_of_the_steps_and_the_weights_that_are_saved(self, tmp_path):
        runner_of(tmp_path / 'run', 3, custom_hooks=self.EMA).train()
        saved = torch.load(tmp_path / 'run' / 'iter_3.pth', weights_only=True)
        slopes = [1 - 0.1, 1 - 0.1 - 0.2, 1 - 0.1 - 0.2 - 0.3]
        average = slopes[0]  # mmengine copies the weights of the first step
        for slope in slopes[1:]:
            average = 0.75 * average + 0.25 * slope
        assert saved['state_dict']['slope'].item() == pytest.approx(average)
        assert saved['ema_state_dict']['module.slope'].item() == pytest.approx(slopes[-1])  # the two are swapped

    def test_a_resumed_run_goes_on_with_it(self, tmp_path):
        runner_of(tmp_path / 'straight', 4, custom_hooks=self.EMA).train()
        half = tmp_path / 'straight' / 'iter_2.pth'
        before = torch.load(half, weights_only=True)['state_dict']['slope']
        resumed = runner_of(tmp_path / 'resumed', 4, resume=half, custom_hooks=self.EMA)
        resumed.train()
        ends = [torch.load(tmp_path / name / 'iter_4.pth', weights_only=True) for name in ('straight', 'resumed')]
        for group, name in (('state_dict', 'slope'), ('ema_state_dict', 'module.slope'), ('ema_state_dict', 'steps')):
            assert torch.equal(ends[0][group][name], ends[1][group][name]), (group, name)
        assert ends[0]['state_dict']['slope'] != before


def test_deterministic_mode_makes_torch_refuse_what_is_not(tmp_path):
    try:
        runner_of(tmp_path / 'run', 1, randomness=dict(seed=0, deterministic=True))
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False


def test_accumulation_is_a_step_every_so_many_batches(tmp_path):
    runner = runner_of(tmp_path / 'run', 4)
    runner.optim_wrapper['accumulative_counts'] = 2
    runner.train()
    assert runner.model.slope.item() == pytest.approx(1 - 0.1 * 1.5 - 0.1 * 3.5)


def test_the_schedule_is_the_stated_one():
    config = load_config(CONFIGS / 'pano3d_vggt_scannet.py')
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=config.optim_wrapper.optimizer.lr)
    schedulers = [
        PARAM_SCHEDULERS.build(dict(entry), default_args=dict(optimizer=optimizer)) for entry in config.param_scheduler
    ]
    rates = []
    for _ in range(config.train_cfg.max_iters):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer._step_count = 1  # torch would warn of schedulers without a step
        for scheduler in schedulers:
            scheduler.step()
    assert rates[0] == pytest.approx(1e-7) and rates[1500] == pytest.approx(1e-4 * (1e-3 + 0.999 * 1500 / 2999))
    assert rates[2999] == rates[8999] == pytest.approx(1e-4)
    for halvings, share in enumerate((0.30, 0.50, 0.70, 0.85, 0.95), start=1):
        milestone = round(share * config.train_cfg.max_iters)
        assert rates[milestone - 1] == pytest.approx(1e-4 / 2 ** (halvings - 1))
        assert rates[milestone] == rates[milestone + 100] == pytest.approx(1e-4 / 2**halvings)


def test_weight_decay_acts_on_the_segmentation_part_alone():
    config = load_config(CONFIGS / 'pano3d_vggt_demo.py')
    with DefaultScope.overwrite_default_scope('pano3d'), torch.device('meta'):
        model = MODELS.build(config.model)
    recipe = load_config(CONFIGS / 'pano3d_vggt_scannet.py').optim_wrapper
    settings = {key: value for key, value in recipe.items() if key not in ('constructor', 'paramwise_cfg')}
    wrapper = PartOptimWrapperConstructor(settings, recipe.paramwise_cfg)(model)
    decay = {id(p): group['weight_decay'] for group in wrapper.optimizer.param_groups for p in group['params']}
    for name, parameter in model.named_parameters():
        expected = 0.05 if part_of(model, name) == 'segmentation_head' else 0.0
        assert decay[id(parameter)] == expected, name
    assert {group['lr'] for group in wrapper.optimizer.param_groups} == {1e-4}
    assert wrapper.clip_grad_kwargs == {'max_norm': 1.0}
