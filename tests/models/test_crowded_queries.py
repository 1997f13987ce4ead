"""Queries selected from tokens and anchored in 3D: what they see, what teaches them, what goes on to a second pass."""

import copy
import itertools
import math
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope

from pano3d.engine import load_config
from pano3d.models import AnchoredPositions, PanopticSetHead, TokenSelection, ViewFeatures
from pano3d.models.anchors import TokenPoints
from pano3d.registry import MODELS

CONFIGS = Path(__file__).parents[2] / 'configs' / 'crowded'
GRID, VIEWS, DIM, QUERIES = (2, 3), 4, 32, 5
TOKENS = VIEWS * 6
SELECTION = dict(type='TokenSelection', dim=DIM)
BY_FEATURES = dict(type='TokenSelection', dim=DIM, spread='features')
ANCHORS = dict(type='AnchoredPositions', dim=DIM)
OPTIONS = {
    'two_stage': dict(selection=SELECTION),
    'by_features': dict(selection=BY_FEATURES),
    'anchored': dict(anchors=ANCHORS),
    'both': dict(selection=SELECTION, anchors=ANCHORS),
}
each_option = pytest.mark.parametrize('option', OPTIONS)


def tiny_head(**decoder) -> PanopticSetHead:
    torch.manual_seed(0)
    head = PanopticSetHead(
        bridge=dict(type='FeatureBridge', encoder_dim=6, decoder_dim=10, hidden_dim=16, out_dim=DIM),
        upscaler=dict(type='MaskUpscaler', dim=DIM, out_dim=DIM),
        decoder=dict(
            type='QueryDecoder',
            num_queries=QUERIES,
            dim=DIM,
            num_layers=2,
            num_heads=4,
            feedforward_dim=64,
            **copy.deepcopy(decoder),
        ),
        classifier=dict(type='LinearClassifier', dim=DIM, num_classes=7),
    )
    head.init_weights()
    if head.decoder.anchors is not None:  # it starts without any influence
        torch.nn.init.normal_(head.decoder.anchors.encoding[-1].weight)
    return head.double().eval()


def make_views(seed: int = 1, **changes) -> ViewFeatures:
    generator = torch.Generator().manual_seed(seed)

    def random(channels: int) -> torch.Tensor:
        return torch.randn(2, VIEWS, 6, channels, generator=generator, dtype=torch.float64)

    values = dict(sources={'encoder': random(6), 'decoder': random(10)}, grid=GRID, points=random(3) + 2.0)
    return ViewFeatures(**(values | changes))


@each_option
def test_only_options_in_3d_ask_for_points(option):
    head = tiny_head(**OPTIONS[option])
    assert head.needs_points == (option != 'by_features')
    if head.needs_points:
        with pytest.raises(ValueError, match=r'needs `ViewFeatures.points`, got None'):
            head(make_views(points=None))
    else:
        head(make_views(points=None))
    assert not tiny_head().needs_points


@each_option
def test_other_views_in_another_order_change_nothing(option):
    """The first view stays: it is the frame of the points."""
    head, views, order = tiny_head(**OPTIONS[option]), make_views(), [0, 3, 1, 2]
    permuted = ViewFeatures(
        {name: value[:, order] for name, value in views.sources.items()}, GRID, points=views.points[:, order]
    )
    for a, b in zip(head(views).predictions, head(permuted).predictions, strict=True):
        torch.testing.assert_close(a.classes, b.classes)
        torch.testing.assert_close(a.masks[:, :, order], b.masks)


@each_option
def test_scenes_of_a_batch_do_not_mix_and_the_unit_of_length_does_not_matter(option):
    head, views = tiny_head(**OPTIONS[option]), make_views()
    together = head(views).predictions[-1]
    alone = ViewFeatures({name: value[1:] for name, value in views.sources.items()}, GRID, points=40 * views.points[1:])
    torch.testing.assert_close(head(alone).predictions[-1].masks, together.masks[1:])


@each_option
def test_points_that_are_not_finite_poison_nothing(option):
    head, views = tiny_head(**OPTIONS[option]), make_views()
    points = views.points.clone()
    points[0, 1, 2] = math.nan
    points[0, 3, :, 1] = math.inf
    points[1] = math.nan  # no point at all in this scene
    views.sources['decoder'].requires_grad_()
    output = head(ViewFeatures(views.sources, GRID, points=points))
    loss = sum(stage.masks.square().sum() + stage.classes.square().sum() for stage in output.predictions)
    loss.backward()
    assert loss.isfinite()
    assert views.sources['decoder'].grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())
    if output.queries.anchors is not None:
        assert output.queries.anchors.isfinite().all()


@each_option
def test_a_second_pass_continues_where_the_first_ended(option):
    head, views = tiny_head(**OPTIONS[option]), make_views()
    first = head(views)
    second = head(views, first.queries.detach())
    torch.testing.assert_close(second.predictions[0].classes, first.predictions[-1].classes)
    torch.testing.assert_close(second.predictions[0].masks, first.predictions[-1].masks)
    # ... with the anchors it was given: other ones, other predictions
    if first.queries.anchors is not None:
        moved = type(first.queries)(first.queries.features, first.queries.position, first.queries.anchors + 1)
        assert not torch.allclose(head(views, moved).predictions[1].masks, second.predictions[1].masks)


@each_option
def test_a_larger_canvas_changes_nothing(option):
    head, views = tiny_head(**OPTIONS[option]), make_views()

    def grown(value: torch.Tensor, filler: float) -> torch.Tensor:
        canvas = value.new_full((*value.shape[:2], 3, 5, value.shape[-1]), filler)
        canvas[:, :, :2, :3] = value.unflatten(2, GRID)
        return canvas.flatten(2, 3)

    padded = ViewFeatures(
        {name: grown(value, 100.0) for name, value in views.sources.items()},
        (3, 5),
        torch.tensor(GRID).expand(2, VIEWS, 2),
        grown(views.points, 7.0),
    )
    for a, b in zip(head(views).predictions, head(padded).predictions, strict=True):
        torch.testing.assert_close(a.classes, b.classes)
        torch.testing.assert_close(a.masks, b.masks[..., :8, :12])


@pytest.mark.parametrize('selection', [SELECTION, BY_FEATURES])
def test_the_first_prediction_is_that_of_the_selected_tokens(selection):
    """A prediction from every token, then the same greedy choice as one loop over it."""
    head, views = tiny_head(selection=selection), make_views()
    decoder = head.decoder
    tokens = head.bridge(views.sources).flatten(1, 2)
    projected = decoder.selection.projection(tokens)
    score = head.classifier(decoder.norm(projected)).softmax(-1)[..., :-1].max(-1).values
    places = views.points.flatten(1, 2) if selection is SELECTION else torch.nn.functional.normalize(projected, dim=-1)
    first = head(views).predictions[0]
    for scene in range(2):
        chosen: list[int] = []
        while len(chosen) < QUERIES:
            others = torch.stack([torch.zeros_like(places[scene, 0]), *places[scene, chosen]])
            value = score[scene] * torch.cdist(places[scene], others).min(1).values
            chosen.append(int(value.argmax()))
        expected = head.classifier(decoder.norm(projected[scene, chosen]))
        torch.testing.assert_close(first.classes[scene], expected)
        assert len(set(chosen)) == QUERIES


def test_only_the_first_prediction_teaches_the_selection():
    head, views = tiny_head(selection=SELECTION), make_views()
    weight = head.decoder.selection.projection[0].weight
    (*later,) = head(views).predictions[1:]
    sum(stage.classes.sum() + stage.masks.square().sum() for stage in later).backward()
    assert weight.grad is None
    head(views).predictions[0].masks.square().sum().backward()
    assert weight.grad.abs().sum() > 0


def test_more_queries_than_tokens():
    head = tiny_head(selection=SELECTION)
    sources = {'encoder': torch.randn(1, 1, 1, 6).double(), 'decoder': torch.randn(1, 1, 1, 10).double()}
    few = ViewFeatures(sources, (1, 1), points=torch.ones(1, 1, 1, 3).double())
    output = head(few)
    assert output.predictions[-1].masks.shape == (1, QUERIES, 1, 4, 4)
    first, second = output.queries.features[0, :2]
    assert not torch.allclose(first, second)  # one token, but each rank has learned something of its own


def test_learned_anchors_start_far_from_each_other_and_follow_the_masks():
    head, views = tiny_head(anchors=ANCHORS), make_views()
    points = views.points.flatten(1, 2)
    start = head.decoder.anchors.start(TokenPoints.of(views), 3)

    def apart(places: torch.Tensor) -> float:
        """Smallest distance between the places and the camera."""
        return float(torch.pdist(torch.cat([places, torch.zeros_like(places[:1])])).min())

    for scene in range(2):
        best = max(apart(points[scene, list(some)]) for some in itertools.combinations(range(TOKENS), 3))
        assert apart(start[scene]) >= best / 2  # the guarantee of farthest-point sampling
    output = head(views)
    logits = torch.nn.functional.interpolate(output.predictions[-1].masks.flatten(0, 1), size=GRID, mode='bilinear')
    logits = logits.unflatten(0, (2, QUERIES)).flatten(2)
    for scene, query in itertools.product(range(2), range(QUERIES)):
        weight = logits[scene, query].sigmoid() * (logits[scene, query] >= 0)
        if weight.sum() > 0:
            mean = (weight[:, None] * points[scene]).sum(0) / weight.sum()
            torch.testing.assert_close(output.queries.anchors[scene, query], mean)
    assert (logits >= 0).any(-1).sum() > QUERIES


def test_anchors_get_no_gradient_and_their_encoding_does():
    head, views = tiny_head(anchors=ANCHORS), make_views()
    views.points.requires_grad_()
    output = head(views)
    output.predictions[-1].masks.square().sum().backward()
    assert views.points.grad is None
    assert not output.queries.anchors.requires_grad
    assert head.decoder.anchors.encoding[0].weight.grad.abs().sum() > 0


def test_where_a_token_is_in_3d_matters_and_not_at_the_start():
    head, views = tiny_head(anchors=ANCHORS), make_views()
    moved = ViewFeatures(views.sources, GRID, points=views.points.flip(2))
    assert not torch.allclose(head(views).predictions[-1].masks, head(moved).predictions[-1].masks)
    plain = tiny_head()
    head.decoder.anchors.init_weights()
    missing, unexpected = head.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all(name.startswith('decoder.anchors.') for name in missing)
    torch.testing.assert_close(head(views).predictions[-1].masks, plain(views).predictions[-1].masks)


@pytest.mark.parametrize('option', ['two_stage', 'both'])
def test_a_released_mask2former_leaves_the_new_parts_as_they_are(option, tmp_path: Path):
    """Names of mmdet, see test_mask2former.py for the values."""
    head = tiny_head(**OPTIONS[option])
    names = {
        'query_feature.': 'query_feat.',
        'query_position.': 'query_embed.',
        'norm.': 'transformer_decoder.post_norm.',
    }
    before = copy.deepcopy(head.decoder.state_dict())
    state = {}
    for name, value in before.items():
        if name.startswith(('selection.', 'anchors.')):
            continue
        new = next((to + name.removeprefix(own) for own, to in names.items() if name.startswith(own)), name)
        for own, to in (
            ('cross_attention.attention', 'cross_attn.attn'),
            ('cross_attention.norm', 'norms.0'),
            ('self_attention.attention', 'self_attn.attn'),
            ('self_attention.norm', 'norms.1'),
            ('feedforward_norm', 'norms.2'),
            ('feedforward.0', 'ffn.layers.0.0'),
            ('feedforward.2', 'ffn.layers.1'),
        ):
            new = new.replace(own, to)
        new = new.replace('mask_embedding.', 'mask_embed.')
        prefix = 'transformer_decoder.' if new.startswith('layers.') else ''
        state[f'panoptic_head.{prefix}{new}'] = value + 1
    state['panoptic_head.level_embed.weight'] = torch.zeros(3, DIM, dtype=torch.float64)
    torch.save({'state_dict': state}, tmp_path / 'mask2former.pth')
    head.decoder.load_official(str(tmp_path / 'mask2former.pth'))
    after = head.decoder.state_dict()
    for name in before:
        new = name.startswith(('selection.', 'anchors.'))
        torch.testing.assert_close(after[name], before[name] if new else before[name] + 1)


def test_what_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="'points', 'features'"):
        TokenSelection(dim=8, spread='colours')
    with DefaultScope.overwrite_default_scope('pano3d'):
        assert isinstance(MODELS.build(dict(ANCHORS)), AnchoredPositions)


@pytest.mark.parametrize('name', ['two_stage', 'anchored', 'two_stage_anchored'])
def test_the_model_gives_the_points_of_the_middles_of_patches_and_trains_all_parts(name):
    config = load_config(CONFIGS / f'{name}.py')
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('pano3d'):
        model = MODELS.build(config.model)
    model.init_weights()
    seen = []
    model.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    output = model(torch.rand(1, 2, 3, 28, 42), mode='tensor')
    points = model.backbone.reconstruct(output.geometry).points
    assert torch.equal(seen[0].points, points[:, :, 7::14, 7::14].flatten(2, 3))
    assert not seen[0].points.requires_grad
    sum(stage.masks.square().sum() + stage.classes.square().sum() for stage in output.segmentation).backward()
    idle = [name for name, p in model.head.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle
