"""Gradients per task and part: against separate backward passes, and without a trace in the training."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper
from tests.models.test_pano3d import batch, build  # noqa: F401  (batch is a fixture)

from pano3d.engine.task_gradients import TaskGradientHook, compare_tasks
from pano3d.models.parts import parameters_by_part

TASKS = ('geometry', 'segmentation')


def a_runner(model, step: int = 0) -> SimpleNamespace:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return SimpleNamespace(
        model=model,
        iter=step,
        optim_wrapper=OptimWrapper(optimizer),
        message_hub=MessageHub.get_instance(f'task_gradients_{id(model)}'),
    )


def as_collated(images, samples) -> dict:
    return {'inputs': [(image * 255).byte() for image in images], 'data_samples': samples}


@pytest.fixture
def runner(batch):  # noqa: F811
    model = build(
        frozen_encoder=True, segmentation_gradient=0.5, data_preprocessor=dict(type='SceneDataPreprocessor')
    ).train()
    return a_runner(model), as_collated(*batch)


def separately(model, data) -> dict[str, dict[str, list]]:
    """Norm and flat gradient per task and part, each from its own forward and backward pass."""
    found = {}
    for task in TASKS:
        torch.manual_seed(5)
        model.zero_grad()
        losses = model(**model.data_preprocessor(data, True), mode='loss')
        sum(value for name, value in losses.items() if name.startswith(f'loss_{task}')).backward()
        found[task] = {
            part: torch.cat([p.grad.flatten() for p in named.values() if p.grad is not None] or [torch.zeros(0)])
            for part, named in parameters_by_part(model).items()
        }
        assert any(len(value) for value in found[task].values())
    model.zero_grad()
    return found


def test_norms_and_cosines_are_those_of_separate_passes(runner):
    runner, data = runner
    expected = separately(runner.model, data)
    torch.manual_seed(5)
    found = TaskGradientHook().measure(runner, data)
    reached = {
        f'gradient_norm/{part}/{task}': value.norm().item()
        for task, parts in expected.items()
        for part, value in parts.items()
        if len(value)
    }
    assert set(reached) == {
        'gradient_norm/decoder/geometry',
        'gradient_norm/decoder/segmentation',
        'gradient_norm/geometry_heads/geometry',
        'gradient_norm/segmentation_head/segmentation',
    }
    norms = {name: value for name, value in found.items() if name.startswith('gradient_norm/')}
    assert norms == pytest.approx(reached, rel=1e-4)
    assert set(found) - set(norms) == {'gradient_cosine/geometry_segmentation/decoder'}
    one, other = (_of_all(expected[task]['decoder'], runner.model) for task in TASKS)
    cosine = torch.nn.functional.cosine_similarity(one, other, dim=0).item()
    assert found['gradient_cosine/geometry_segmentation/decoder'] == pytest.approx(cosine, rel=1e-3, abs=1e-5)
    assert abs(cosine) > 1e-4


def _of_all(flat, model):
    """Both tasks reach every parameter of the decoder, so that the flat vectors can be compared entry by entry."""
    decoder = [p for p in parameters_by_part(model)['decoder'].values() if p.requires_grad]
    assert flat.numel() == sum(p.numel() for p in decoder)
    return flat


def test_a_measurement_leaves_no_trace(runner):
    runner, data = runner
    weights = {name: value.clone() for name, value in runner.model.state_dict().items()}
    torch.manual_seed(7)
    state = torch.get_rng_state()
    hook = TaskGradientHook(interval=3)
    hook.before_train(runner)
    hook.before_train_iter(runner, 0, data)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in runner.model.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in runner.model.state_dict().items())


def test_only_every_nth_step_is_measured_and_logged(runner, monkeypatch):
    runner, data = runner
    hook = TaskGradientHook(interval=3)
    asked = []
    monkeypatch.setattr(hook, 'measure', lambda runner, data: asked.append(runner.iter) or {'gradient_norm/x/y': 2.0})
    hook.before_train(runner)
    for runner.iter in range(7):
        hook.before_train_iter(runner, runner.iter, data)
    assert asked == [0, 3, 6]
    scalars = runner.message_hub.log_scalars
    assert scalars['train/gradient_norm/x/y'].current() == 2.0
    assert scalars['train/gradient_overhead'].current() >= 0


def test_tasks_that_share_no_parameter_have_no_cosine():
    one = torch.tensor([3.0, 4.0])
    found = compare_tasks({'a': [one, None], 'b': [None, None], 'c': [None, one]}, 'head')
    assert found == {'gradient_norm/head/a': 5.0, 'gradient_norm/head/c': 5.0, 'gradient_cosine/a_c/head': 0.0}
    assert compare_tasks({'a': [one], 'b': [-2 * one]}, 'x')['gradient_cosine/a_b/x'] == pytest.approx(-1.0)


def test_other_models_and_intervals_are_refused(runner):
    with pytest.raises(ValueError, match='interval'):
        TaskGradientHook(interval=0)
    with pytest.raises(ValueError, match='got Linear'):
        TaskGradientHook().before_train(SimpleNamespace(model=torch.nn.Linear(1, 1)))
