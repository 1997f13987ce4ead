"""The set head: shapes of the figure, and what must not depend on the order of views."""

import pytest
import torch

from pano3d.models.feature_bridge import FeatureBridge
from pano3d.models.mask_upscaler import MaskUpscaler
from pano3d.models.panoptic_set_head import PanopticSetHead
from pano3d.models.query_decoder import QueryDecoder, QueryDecoderLayer

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


def test_one_prediction_before_the_first_layer_and_one_after_each(features):
    predictions = tiny_head()(*features, GRID)
    assert len(predictions) == 3
    for prediction in predictions:
        assert prediction.classes.shape == (2, 5, 8)
        assert prediction.masks.shape == (2, 5, VIEWS, 8, 12)


def test_permuting_views_permutes_masks_and_keeps_classes(features):
    head, order = tiny_head(), [2, 0, 3, 1]
    straight = head(*features, GRID)
    permuted = head(features[0][:, order], features[1][:, order], GRID)
    for a, b in zip(straight, permuted, strict=True):
        torch.testing.assert_close(a.classes, b.classes)
        torch.testing.assert_close(a.masks[:, :, order], b.masks)


def test_scenes_of_a_batch_do_not_mix(features):
    head = tiny_head()
    together = head(*features, GRID)[-1]
    alone = head(features[0][1:], features[1][1:], GRID)[-1]
    torch.testing.assert_close(together.masks[1:], alone.masks)
    torch.testing.assert_close(together.classes[1:], alone.classes)


@pytest.mark.parametrize(('kept', 'dropped'), [('encoder', 1), ('decoder', 0)])
def test_a_dropped_feature_has_no_influence(features, kept, dropped):
    head = tiny_head(features=(kept,))
    changed = list(features)
    changed[dropped] = changed[dropped] + 1
    assert torch.equal(head(*features, GRID)[-1].masks, head(*changed, GRID)[-1].masks)


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
    masks = torch.full((1, 2, 1, 4, 4), -5.0)
    masks[0, 0, 0, :2, :2] = 5.0
    blocked = decoder._attention_mask(masks, (2, 2))
    assert blocked.shape == (2, 2, 4)
    for head in blocked:
        assert head[0].tolist() == [False, True, True, True]
        assert not head[1].any()  # an empty mask attends everywhere


def test_queries_are_independent_of_features_before_the_first_layer(features):
    head = tiny_head()
    first = head(*features, GRID)[0]
    other = head(features[0] + 1, features[1] - 1, GRID)[0]
    torch.testing.assert_close(first.classes, other.classes)


def test_masks_have_a_gradient_from_the_first_step_on():
    """G and M are of the size of the features; PyTorch's default leaves M far below."""
    head = tiny_head()
    generator = torch.Generator().manual_seed(2)
    encoded = torch.randn(4, VIEWS, 6, 6, generator=generator, dtype=torch.float64)
    decoded = torch.randn(4, VIEWS, 6, 10, generator=generator, dtype=torch.float64)
    tokens = head.bridge(encoded, decoded)
    for features in (tokens, head.upscaler(tokens, GRID)):
        assert 0.5 < features.std() < 3.0
