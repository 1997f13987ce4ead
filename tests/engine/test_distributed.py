"""Two processes on the CPU (gloo) do what one does."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.registry import DefaultScope
from mmengine.runner import FlexibleRunner
from torch import Tensor, nn
from torch.utils.data import Dataset

from pano3d.engine import GuardedOptimWrapper, NonFiniteStepHook, TrainingDivergedError, load_config
from pano3d.models import Pano3D
from pano3d.registry import MODELS
from pano3d.structures import PanopticMap, Reconstruction, SceneSample

pytestmark = pytest.mark.slow

CONFIGS = Path(__file__).parents[2] / 'configs'
RANKS = 2
VIEWS, SIDE = 2, 14
SMALL_VGGT = dict(position_grid=3, embed_dim=32, encoder_depth=1, encoder_heads=2, decoder_depth=4, decoder_heads=2)
SMALL_VGGT |= dict(camera_depth=1, camera_heads=2, dense_channels=(8, 8, 8, 8), dense_features=8)


def on_ranks(work: Callable[[int], Any], folder: Path) -> list[Any]:
    """What `work(rank)` returns in each of two connected processes."""
    context = multiprocessing.get_context('fork')

    def run(rank: int) -> None:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(RANKS))
        torch.distributed.init_process_group(
            'gloo',
            init_method=f'file://{folder}/rendezvous',
            rank=rank,
            world_size=RANKS,
            timeout=timedelta(seconds=60),
        )
        try:
            torch.save(work(rank), folder / f'{rank}.pth')
        except BaseException:
            (folder / f'{rank}.txt').write_text(traceback.format_exc())
        finally:
            os._exit(0)  # nothing of the parent's is to be cleaned up here

    processes = [context.Process(target=run, args=(rank,)) for rank in range(RANKS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        process.kill()
    errors = [file.read_text() for file in sorted(folder.glob('?.txt'))]
    assert not errors, errors[0]
    return [torch.load(folder / f'{rank}.pth', weights_only=True) for rank in range(RANKS)]


def build(changes: dict[str, Any] | None = None, **settings: object) -> Pano3D:
    config = load_config(CONFIGS / 'pano3d_vggt_demo.py')
    config.model.backbone.update(SMALL_VGGT)
    config.model.head.bridge.update(encoder_dim=32, decoder_dim=64)
    config.model.update(settings)
    config.merge_from_dict({'model': changes or {}})
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('pano3d'):
        return MODELS.build(config.model).train()


def scene(number: int) -> tuple[Tensor, SceneSample]:
    """Scenes of different content with as many valid pixels and segments, so that the mean of means is the mean."""
    generator = torch.Generator().manual_seed(number)
    sample = SceneSample(metainfo=dict(scene_id=f'scene{number}', frame_ids=['0', '1']))
    category = (
        torch.arange(4)
        .repeat_interleave(VIEWS * SIDE * SIDE // 4)[torch.randperm(VIEWS * SIDE * SIDE, generator=generator)]
        .view(VIEWS, SIDE, SIDE)
    )
    sample.gt_panoptic = PanopticMap(category, torch.where(category > 1, category, 0))
    intrinsics = torch.tensor([[20.0, 0, 6.5], [0, 20, 6.5], [0, 0, 1]]).expand(VIEWS, 3, 3)
    poses = torch.eye(4).repeat(VIEWS, 1, 1)
    poses[1, 0, 3] = 0.3
    depth = 1 + torch.rand(VIEWS, SIDE, SIDE, generator=generator)
    sample.gt_reconstruction = Reconstruction.from_depth(depth, intrinsics, poses)
    return torch.rand(VIEWS, 3, SIDE, SIDE, generator=generator), sample


def batch(*numbers: int) -> tuple[Tensor, list[SceneSample]]:
    images, samples = zip(*(scene(number) for number in numbers), strict=True)
    return torch.stack(images), list(samples)


@pytest.fixture
def same_points(monkeypatch):
    """Points of the set loss that do not depend on how many scenes there are."""

    def randint(high: int, size: tuple[int, ...], **options: object) -> Tensor:
        return (torch.arange(size[-1]) * 2654435761 % high).expand(size).clone()

    monkeypatch.setattr(torch, 'randint', randint)
    monkeypatch.setattr(torch, 'rand', lambda *size, **options: torch.full(size, 0.5))


def step(model: nn.Module, numbers: tuple[int, ...]) -> tuple[dict[str, Tensor], dict[str, Tensor], float]:
    """Losses and gradients of a step, and gamma after it."""
    inner = model.module if isinstance(model, MMDistributedDataParallel) else model
    inner.start_step(0)
    losses = model(*batch(*numbers), mode='loss')
    sum(value for name, value in losses.items() if name.startswith('loss')).backward()
    inner.finish_step()
    gradients = {name: parameter.grad for name, parameter in inner.named_parameters() if parameter.grad is not None}
    return {k: v.detach() for k, v in losses.items()}, gradients, inner.segmentation_gradient.current


def distributed(model: nn.Module) -> MMDistributedDataParallel:
    return MMDistributedDataParallel(model, broadcast_buffers=False, device_ids=None)


def test_two_processes_with_one_scene_each_are_one_with_two(tmp_path, same_points):
    rules = {'fixed': 0.1, 'measured': dict(type='MeasuredGradientFactor', steps=1)}
    together = on_ranks(
        lambda rank: {
            name: step(distributed(build(segmentation_gradient=rule)), (rank,)) for name, rule in rules.items()
        },
        tmp_path,
    )
    for rule, segmentation_gradient in rules.items():
        ranks = [found[rule] for found in together]
        losses, gradients, gamma = step(build(segmentation_gradient=segmentation_gradient), (0, 1))
        for name, expected in losses.items():
            found = torch.stack([loss[name] for loss, _, _ in ranks]).mean(0)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, msg=name)
        for _, mine, _ in ranks:
            assert mine.keys() == gradients.keys()
            for name, expected in gradients.items():
                atol = 1e-4 * float(expected.abs().max()) + 1e-7
                torch.testing.assert_close(mine[name], expected, rtol=1e-3, atol=atol, msg=name)
        assert ranks[0][2] == ranks[1][2] == pytest.approx(gamma, rel=1e-4)
        assert (gamma == 0.1) is (rule == 'fixed')
        assert ranks[0][0]['loss_segmentation_mask'] != ranks[1][0]['loss_segmentation_mask']


def test_no_regime_leaves_a_parameter_unused(tmp_path):
    regimes = {
        path.stem: load_config(CONFIGS / f'ablations/vggt_demo_{path.stem}.py').regime.to_dict()
        for path in (CONFIGS / '_base_/regimes').glob('*.py')
    }

    def train(regime: dict[str, Any], rank: int) -> float:
        model = distributed(build(regime))
        for _ in range(2):  # torch complains of an unused parameter in the second step
            losses = model(*batch(rank), mode='loss')
            sum(value for name, value in losses.items() if name.startswith('loss')).backward()
        return sum(float(p.grad.abs().sum()) for p in model.parameters() if p.grad is not None)

    first, second = on_ranks(lambda rank: {name: train(regime, rank) for name, regime in regimes.items()}, tmp_path)
    assert first == second and len(first) == 5 and min(first.values()) > 0


class Slope(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: float) -> Tensor:
        return self.weight * x


def test_all_ranks_skip_a_step_together_and_name_the_sample_of_the_one_to_blame(tmp_path):
    class Run:
        iter = 4

        def __init__(self, wrapper: GuardedOptimWrapper) -> None:
            self.optim_wrapper, self.message_hub = wrapper, wrapper.message_hub
            self.logger = multiprocessing.get_logger()

    def train(rank: int) -> tuple[list[float], str]:
        model = nn.parallel.DistributedDataParallel(Slope())
        wrapper = GuardedOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.5))
        seen = []
        for mine in ((1.0, 3.0), (1.0, float('nan')), (2.0, 2.0), (float('inf'), 1.0)):
            with wrapper.optim_context(model):
                loss = model(mine[rank])
            wrapper.update_params(loss)
            seen.append(model.module.weight.item())
        try:
            data = {'data_samples': [scene(rank)[1]]}
            NonFiniteStepHook(max_in_a_row=1).after_train_iter(Run(wrapper), 0, data, {'loss': loss.detach()})
        except TrainingDivergedError as error:
            return seen, str(error)
        return seen, ''

    (first, message), (second, other) = on_ranks(train, tmp_path)
    assert first == second == [0.0, 0.0, -1.0, -1.0]  # 1 - 0.5 * mean(1, 3), skipped, - 0.5 * 2, skipped
    assert message == other
    assert 'step 5: the loss is not finite' in message and 'scene0, frames 0, 1 [loss]' in message
    assert 'scene1' not in message


class Plane(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, inputs, data_samples=None, mode='loss'):
        return {'loss': self.layer(torch.stack(list(inputs))).square().mean()}


class Vectors(Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict:
        return {'inputs': torch.arange(3.0) + index}


def train_sharded(folder: Path, steps: int, resume: Path | None = None) -> dict[str, Tensor]:
    """Parameters after so many steps, with what `configs/_base_/strategies/fsdp.py` says."""
    config = Config.fromfile(CONFIGS / '_base_/strategies/fsdp.py')
    config.strategy.model_wrapper.device_id = torch.device('cpu')
    on_cpu = dict(rank0_only=False, offload_to_cpu=False)  # torch crashes when it moves shards from the CPU to the CPU
    config.strategy.state_dict_cfg = dict(
        state_dict_type='FULL_STATE_DICT',
        state_dict_config=dict(type='FullStateDictConfig', **on_cpu),
        optim_state_dict_config=dict(type='FullOptimStateDictConfig', **on_cpu),
    )
    torch.manual_seed(0)
    runner = FlexibleRunner(
        model=Plane(),
        work_dir=str(folder),
        strategy=config.strategy,
        train_dataloader=dict(
            dataset=Vectors(), sampler=dict(type='DefaultSampler', shuffle=False), batch_size=1, num_workers=0
        ),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=steps),
        optim_wrapper=dict(
            type='GuardedOptimWrapper', optimizer=dict(type='AdamW', lr=0.1), clip_grad=dict(max_norm=0.5)
        ),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1),
            plain_checkpoint=dict(type='PlainCheckpointHook'),
        ),
        default_scope='pano3d',
        log_level='ERROR',
        experiment_name=folder.name,
        load_from=resume and str(resume),
        resume=resume is not None,
    )
    runner.train()
    torch.distributed.barrier()  # the first process writes the file
    return torch.load(folder / f'iter_{steps}.pth', weights_only=True)['state_dict']


def test_sharded_training_is_that_of_one_process_and_resumes(tmp_path):
    def work(rank: int) -> list[dict[str, Tensor]]:
        straight = train_sharded(tmp_path / 'straight', 3)
        return [straight, train_sharded(tmp_path / 'resumed', 3, tmp_path / 'straight' / 'iter_2.pth')]

    (straight, resumed), _ = on_ranks(work, tmp_path)
    torch.manual_seed(0)
    model = Plane()
    wrapper = GuardedOptimWrapper(optimizer=torch.optim.AdamW(model.parameters(), lr=0.1), clip_grad={'max_norm': 0.5})
    for first in (0, 2, 4):
        inputs = [Vectors()[index]['inputs'] for index in (first, first + 1)]
        wrapper.update_params(model(inputs)['loss'])
    for name, expected in model.state_dict().items():
        torch.testing.assert_close(straight[name], expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(straight[name], resumed[name]), name
