"""Views that exchange features in 3D."""

import copy
import logging
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope

from pano3d.engine.config import load_config
from pano3d.models import ViewFeatures
from pano3d.registry import MODELS

pytestmark = pytest.mark.skipif(find_spec('spconv') is None, reason='spconv is not installed')
CONFIGS = Path(__file__).parents[2] / 'configs'
SCENES, VIEWS, GRID, DIM = 2, 3, (2, 4), 8


@pytest.fixture
def views() -> ViewFeatures:
    """Views 0 and 1 of each scene see the same places, view 2 others, far away."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(SCENES, VIEWS, GRID[0] * GRID[1], 3, generator=generator)
    points[:, 1] = points[:, 0]
    points[:, 2] += 20
    tokens = torch.randn(SCENES, VIEWS, GRID[0] * GRID[1], DIM, generator=generator)
    return ViewFeatures({'tokens': tokens}, GRID, points=points)


def refinement(*, learned: bool = True, **options) -> torch.nn.Module:
    torch.manual_seed(0)
    module = MODELS.build(dict(type='pano3d.SparseRefinement', dim=DIM, hidden_dim=16, unit='metres', **options))
    module.init_weights()
    if learned:
        torch.nn.init.normal_(module.output[1].weight)
    return module


def changed(module: torch.nn.Module, views: ViewFeatures) -> torch.Tensor:
    tokens = views.sources['tokens']
    return ((module(tokens, views) - tokens).abs() > 1e-6).any(-1)


def test_it_begins_as_the_identity_and_learns(views):
    module = refinement(learned=False)
    tokens = views.sources['tokens'].clone().requires_grad_()
    refined = module(tokens, views)
    assert torch.equal(refined, tokens)
    refined.square().sum().backward()
    assert module.output[1].weight.grad.any()
    module = copy.deepcopy(refinement())
    module(tokens, views).square().sum().backward()
    assert all(parameter.grad.any() for parameter in module.parameters())


def test_views_learn_of_each_other_where_they_see_the_same(views):
    module = refinement()
    tokens = views.sources['tokens']
    before = module(tokens, views)
    other = tokens.clone()
    other[0, 1] += 1
    change = (module(other, views) - before).abs().amax((-1, -2)) > 1e-5
    # View 2 is too far, the other scene is another; without a common place a view hears nothing.
    assert change.tolist() == [[True, True, False], [False, False, False]]


def test_tokens_without_a_point_are_left_out(views):
    module = refinement()
    tokens, points = views.sources['tokens'], views.points.clone()
    points[0, 0, 3] = torch.nan
    points[0, 0, 4, 1] = torch.inf
    views = ViewFeatures(views.sources, GRID, points=points)
    hidden = torch.zeros(SCENES, VIEWS, GRID[0] * GRID[1], dtype=torch.bool)
    hidden[0, 0, 3:5] = True
    assert torch.equal(~changed(module, views), hidden)
    strange = tokens.clone()
    strange[hidden] = 1e3
    torch.testing.assert_close(module(strange, views)[~hidden], module(tokens, views)[~hidden])
    nowhere = ViewFeatures(views.sources, GRID, points=torch.full_like(points, torch.nan))
    assert torch.equal(module(tokens, nowhere), tokens)


def test_what_is_beside_views_of_other_sizes_is_left_out(views):
    extents = torch.tensor(GRID).repeat(SCENES, VIEWS, 1)
    extents[0, 0, 1] = 3
    found = changed(refinement(), ViewFeatures(views.sources, GRID, extents, views.points)).unflatten(2, GRID)
    assert not found[0, 0, :, 3].any()
    assert found[0, 0, :, :3].all() and found[1:].all()


def test_scale_does_not_matter_where_the_unit_is_the_scene(views):
    module = refinement(voxel_size=0.05)
    module.unit = 'mean_distance'
    tokens = views.sources['tokens']
    scaled = ViewFeatures(views.sources, GRID, points=views.points * 8)  # a power of two: the same roundings
    torch.testing.assert_close(module(tokens, scaled), module(tokens, views))


def test_points_are_asked_for(views):
    with pytest.raises(ValueError, match='is needed: the refinement works'):
        refinement()(views.sources['tokens'], ViewFeatures(views.sources, GRID))


@pytest.mark.parametrize('backbone', ['vggt', 'must3r'])
def test_the_model_trains_with_it_and_chunks_change_nothing(backbone):
    logging.disable(logging.INFO)
    config = load_config(CONFIGS / f'pano3d_{backbone}_demo.py')
    config.model.head.refinement = dict(type='SparseRefinement', dim=128, hidden_dim=16)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('pano3d'):
        model = MODELS.build(config.model)
    model.init_weights()
    size = (28, 42) if backbone == 'vggt' else (32, 48)
    images = torch.rand(1, 3, 3, *size)
    logging.disable(logging.NOTSET)
    model._forward(images).segmentation[-1].masks.square().mean().backward()
    assert model.head.refinement.output[1].weight.grad.any()
    torch.nn.init.normal_(model.head.refinement.output[1].weight, std=0.1)
    model.eval()
    if backbone == 'vggt':
        with torch.no_grad():
            _, views = model._features(images, None)
            expected = model.head(views).predictions[-1]
            for chunk_size in (1, 3):
                found = model.head.predict(views, chunk_size=chunk_size)
                torch.testing.assert_close(found.masks, expected.masks, rtol=1e-3, atol=1e-3)
                torch.testing.assert_close(found.classes, expected.classes, rtol=1e-3, atol=1e-3)
