"""The set head: shapes of the figure, and what must not depend on the order of views."""

import pytest
import torch

from pano3d.models.feature_bridge import FeatureBridge
from pano3d.models.mask_upscaler import MaskUpscaler
from pano3d.models.panoptic_set_head import PanopticSetHead
from pano3d.models.query_decoder import QueryDecoder, QueryDecoderLayer
from pano3d.models.view_features import ViewFeatures, outside

GRID, VIEWS, DIM = (2, 3), 4, 32


def tiny_head(**bridge) -> PanopticSetHead:
    torch.manual_seed(0)
    head = PanopticSetHead(
        bridge=dict(type='FeatureBridge', encoder_dim=6, decoder_dim=10, hidden_dim=16, out_dim=DIM, **bridge),
        upscaler=dict(type='MaskUpscaler', dim=DIM, out_dim=DIM),
        decoder=dict(type='QueryDecoder', num_queries=5, dim=DIM, num_layers=2, num_heads=4, feedforward_dim=64),
        classifier=dict(type='LinearClassifier', dim=DIM, num_classes=7),
    )
    head.init_weights()
    return head.double().eval()


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(1)
    encoded = torch.randn(2, VIEWS, 6, 6, generator=generator, dtype=torch.float64)
    return encoded, torch.randn(2, VIEWS, 6, 10, generator=generator, dtype=torch.float64)


def predict(head, encoded, decoded, grid=GRID, extents=None):
    return head(ViewFeatures({'encoder': encoded, 'decoder': decoded}, grid, extents)).predictions


def test_one_prediction_before_the_first_layer_and_one_after_each(features):
    predictions = predict(tiny_head(), *features)
    assert len(predictions) == 3
    for prediction in predictions:
        assert prediction.classes.shape == (2, 5, 8)
        assert prediction.masks.shape == (2, 5, VIEWS, 8, 12)


def test_permuting_views_permutes_masks_and_keeps_classes(features):
    head, order = tiny_head(), [2, 0, 3, 1]
    straight = predict(head, *features)
    permuted = predict(head, features[0][:, order], features[1][:, order])
    for a, b in zip(straight, permuted, strict=True):
        torch.testing.assert_close(a.classes, b.classes)
        torch.testing.assert_close(a.masks[:, :, order], b.masks)


def test_scenes_of_a_batch_do_not_mix(features):
    head = tiny_head()
    together = predict(head, *features)[-1]
    alone = predict(head, features[0][1:], features[1][1:])[-1]
    torch.testing.assert_close(together.masks[1:], alone.masks)
    torch.testing.assert_close(together.classes[1:], alone.classes)


@pytest.mark.parametrize(('kept', 'dropped'), [('encoder', 1), ('decoder', 0)])
def test_a_dropped_feature_has_no_influence(features, kept, dropped):
    head = tiny_head(features=(kept,))
    changed = list(features)
    changed[dropped] = changed[dropped] + 1
    assert torch.equal(predict(head, *features)[-1].masks, predict(head, *changed)[-1].masks)


def test_an_unknown_feature_is_refused():
    with pytest.raises(ValueError, match='features'):
        FeatureBridge(encoder_dim=1, decoder_dim=1, features=('encoder', 'dino'))


def test_upscaler_puts_each_token_on_its_own_patch():
    torch.manual_seed(0)
    upscaler = MaskUpscaler(dim=8, out_dim=3)
    tokens = torch.randn(1, 2, 6, 8)
    before = upscaler(tokens, GRID)
    assert before.shape == (1, 2, 3, 8, 12)
    changed = tokens.clone()
    changed[0, 1, 4] += 1  # row 1, column 1
    different = (upscaler(changed, GRID) != before).any(2)[0]
    expected = torch.zeros(2, 8, 12, dtype=torch.bool)
    expected[1, 4:8, 4:8] = True
    assert torch.equal(different, expected)


def test_layer_follows_the_definition():
    """Cross-attention, self-attention, feed-forward, each `norm(x + f(x))`, with attention written out."""
    torch.manual_seed(0)
    layer = QueryDecoderLayer(8, 2, 16).double()
    queries, position = torch.randn(1, 3, 8).double(), torch.randn(1, 3, 8).double()
    values, keys = torch.randn(1, 5, 8).double(), torch.randn(1, 5, 8).double()
    blocked = torch.tensor([[[0, 1, 0, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 0]]]).bool().repeat_interleave(2, 0)

    def attend(module, q, k, v, mask):
        weight, bias = module.attention.in_proj_weight.chunk(3), module.attention.in_proj_bias.chunk(3)
        q, k, v = (x @ w.T + b for x, w, b in zip((q, k, v), weight, bias, strict=True))
        heads = []
        for part in (slice(0, 4), slice(4, 8)):
            score = q[0, :, part] @ k[0, :, part].T / 2
            heads.append(
                (score if mask is None else score.masked_fill(mask[0], -torch.inf)).softmax(-1) @ v[0, :, part]
            )
        return module.attention.out_proj(torch.cat(heads, -1))[None]

    x = layer.cross_attention.norm(queries + attend(layer.cross_attention, queries + position, keys, values, blocked))
    x = layer.self_attention.norm(x + attend(layer.self_attention, x + position, x + position, x, None))
    expected = layer.feedforward_norm(x + layer.feedforward(x))
    torch.testing.assert_close(layer(queries, position, values, keys, blocked), expected)


def test_attention_is_blocked_where_the_mask_is_off_and_free_where_it_is_empty():
    decoder = QueryDecoder(num_queries=2, dim=8, num_layers=1, num_heads=2, feedforward_dim=8)
    masks = torch.full((1, 2, 4), -5.0)
    masks[0, 0, 0] = 5.0
    blocked = decoder._attention_mask(masks, None)
    assert blocked.shape == (2, 2, 4)
    for head in blocked:
        assert head[0].tolist() == [False, True, True, True]
        assert not head[1].any()  # an empty mask attends everywhere


def test_queries_are_independent_of_features_before_the_first_layer(features):
    head = tiny_head()
    first = predict(head, *features)[0]
    other = predict(head, features[0] + 1, features[1] - 1)[0]
    torch.testing.assert_close(first.classes, other.classes)


def test_masks_have_a_gradient_from_the_first_step_on():
    """G and M are of the size of the features; PyTorch's default leaves M far below."""
    head = tiny_head()
    generator = torch.Generator().manual_seed(2)
    encoded = torch.randn(4, VIEWS, 6, 6, generator=generator, dtype=torch.float64)
    decoded = torch.randn(4, VIEWS, 6, 10, generator=generator, dtype=torch.float64)
    tokens = head.bridge({'encoder': encoded, 'decoder': decoded})
    for features in (tokens, head.upscaler(tokens, GRID)):
        assert 0.5 < features.std() < 3.0


CANVAS = (3, 5)
EXTENTS = ((2, 3), (3, 2), (3, 5), (1, 4))


def on_canvas(tokens: torch.Tensor, extents: torch.Tensor, canvas: tuple[int, int], filler: float) -> torch.Tensor:
    """Tokens on a smaller canvas (B, V, h * w, C), moved to a larger one whose rest is `filler`."""
    rows, columns = (int(value) for value in extents.flatten(0, 1).amax(0))
    grown = tokens.new_full((*tokens.shape[:2], *canvas, tokens.shape[-1]), filler)
    grown[:, :, :rows, :columns] = tokens.unflatten(2, (rows, columns))
    return grown.flatten(2, 3)


def test_a_larger_canvas_changes_nothing(features):
    head = tiny_head()
    extents = torch.tensor(GRID).expand(2, VIEWS, 2)
    grown = [on_canvas(value, extents, CANVAS, filler=1e3) for value in features]
    for plain, padded in zip(predict(head, *features), predict(head, *grown, CANVAS, extents), strict=True):
        torch.testing.assert_close(padded.classes, plain.classes)
        torch.testing.assert_close(padded.masks[..., :8, :12], plain.masks)
        assert torch.equal(padded.extents, extents * 4)


def test_nothing_comes_from_outside_the_views_and_everything_from_inside():
    head = tiny_head()
    generator = torch.Generator().manual_seed(3)
    encoded = torch.randn(1, VIEWS, 15, 6, generator=generator, dtype=torch.float64)
    decoded = torch.randn(1, VIEWS, 15, 10, generator=generator, dtype=torch.float64).requires_grad_()
    extents = torch.tensor(EXTENTS)[None]
    predictions = predict(head, encoded, decoded, CANVAS, extents)
    beyond = outside(extents * 4, (12, 20))
    loss = sum(
        stage.classes.square().sum() + stage.masks.square().masked_fill(beyond[:, None], 0).sum()
        for stage in predictions
    )
    loss.backward()
    touched = decoded.grad.abs().sum(-1).unflatten(2, CANVAS) > 0
    assert torch.equal(touched, ~outside(extents, CANVAS))


def test_one_view_of_a_mixed_scene_has_its_own_positions():
    """A decoder that looks at one view only gives the same on the view's own grid and in a mixed scene."""
    head = tiny_head()
    generator = torch.Generator().manual_seed(4)
    small = torch.randn(1, 1, 6, 6, generator=generator, dtype=torch.float64)
    other = torch.randn(1, 1, 6, 10, generator=generator, dtype=torch.float64)
    for rows, columns in ((2, 3), (3, 2), (1, 6)):
        extents = torch.tensor([[[rows, columns]]])
        alone = predict(head, small, other, (rows, columns))[-1]
        grown = [on_canvas(value, extents, (4, 7), filler=-50.0) for value in (small, other)]
        mixed = predict(head, *grown, (4, 7), extents)[-1]
        torch.testing.assert_close(mixed.classes, alone.classes)
        torch.testing.assert_close(mixed.masks[..., : 4 * rows, : 4 * columns], alone.masks)


def test_a_second_pass_continues_with_the_queries_of_the_first(features):
    head = tiny_head()
    views = ViewFeatures(dict(zip(('encoder', 'decoder'), features, strict=True)), GRID)
    first = head(views)
    second = head(views, first.queries.detach())
    torch.testing.assert_close(second.predictions[0].classes, first.predictions[-1].classes)
    torch.testing.assert_close(second.predictions[0].masks, first.predictions[-1].masks)
    assert torch.equal(second.queries.position, first.queries.position)


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        (dict(sources={}), 'empty'),
        (dict(grid=(2, 2)), r'on the grid \(2, 2\)'),
        (dict(extents=torch.ones(1, 1, 2)), 'int64'),
        (dict(extents=torch.tensor([[[3, 3]]])), r'\[3, 3\]'),
        (dict(extents=torch.tensor([[[0, 3]]])), r'\[0, 3\]'),
        (dict(points=torch.zeros(1, 1, 5, 3)), 'points'),
    ],
)
def test_features_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        ViewFeatures(**(dict(sources={'encoder': torch.zeros(1, 1, 6, 4)}, grid=GRID) | changes))


def test_a_missing_feature_is_named():
    with pytest.raises(ValueError, match="needs the features \\['decoder'\\]"):
        tiny_head()(ViewFeatures({'encoder': torch.zeros(1, 1, 6, 6, dtype=torch.float64)}, GRID))


@pytest.mark.parametrize('chunk_size', [1, 3, 10])
@pytest.mark.parametrize('mixed', [False, True])
def test_prediction_alone_is_the_last_stage_of_the_forward_pass(features, chunk_size, mixed):
    head = tiny_head()
    extents = torch.tensor([[2, 3], [1, 2], [2, 1], [2, 3]]).expand(2, VIEWS, 2) if mixed else None
    views = ViewFeatures({'encoder': features[0], 'decoder': features[1]}, GRID, extents)
    output, first = head(views), None
    for _ in range(2):  # from the learned queries, and from those of a pass before
        with torch.no_grad():
            expected = head(views, first)
        found = head.predict(views, first, chunk_size=chunk_size)
        torch.testing.assert_close(found.masks.double(), expected.predictions[-1].masks, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.classes.double(), expected.predictions[-1].classes, rtol=1e-5, atol=1e-5)
        assert (found.extents is None) == (not mixed)
        if mixed:
            assert torch.equal(found.extents, expected.predictions[-1].extents)
        first = output.queries.detach()


def test_parts_of_several_sizes_join_on_one_canvas():
    generator = torch.Generator().manual_seed(0)
    grids, places = [(1, 2), (3, 1)], [(2, 0), (1,)]
    parts = [
        ViewFeatures({'a': torch.rand(2, len(p), g[0] * g[1], 5, generator=generator)}, g)
        for g, p in zip(grids, places, strict=True)
    ]
    joined = ViewFeatures.join(list(zip(places, parts, strict=True)))
    assert joined.grid == (3, 2)
    assert joined.extents[0].tolist() == [[1, 2], [3, 1], [1, 2]]
    canvas = joined.sources['a'].unflatten(2, (3, 2))
    assert torch.equal(canvas[:, [2, 0], 0], parts[0].sources['a'])
    assert torch.equal(canvas[:, 1, :, 0], parts[1].sources['a'][:, 0])
    assert (canvas[outside(joined.extents, joined.grid)] == 0).all()
    with pytest.raises(ValueError, match=r'each of V views once, got the views \[0, 2\]'):
        ViewFeatures.join([((0, 2), parts[0])])
