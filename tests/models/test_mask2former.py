"""The query decoder against the Mask2Former that mmdet installs: same weights, same answers; and its released files."""

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from torch import nn

from pano3d.functional.position_encoding import sine_position_encoding
from pano3d.models import LinearClassifier, QueryDecoder, ViewFeatures
from pano3d.models.mask2former_weights import DETECTRON2, MMDET

mask2former = pytest.importorskip('mmdet.models.dense_heads.mask2former_head', reason='mmdet is not installed')

DIM, HEADS, LAYERS, QUERIES, CLASSES, HIDDEN = 32, 4, 5, 7, 3, 48
GRID, VIEWS, BATCH = (2, 3), 3, 2
OUR_SIZES = dict(num_queries=QUERIES, dim=DIM, num_layers=LAYERS, num_heads=HEADS, feedforward_dim=HIDDEN)


class Given(nn.Module):
    """In place of mmdet's pixel decoder: M and the same tokens for each of its scales."""

    def __init__(self, mask_features: torch.Tensor, tokens: torch.Tensor, levels: int) -> None:
        super().__init__()
        self.answer = mask_features, [tokens] * levels

    def forward(self, _):
        return self.answer


class PositionsOfEachView(nn.Module):
    """mmdet's own sine positions, for views below each other in one tall map."""

    def __init__(self, single: nn.Module) -> None:
        super().__init__()
        self.single = single

    def forward(self, mask):
        return self.single(mask[:, : GRID[0]]).repeat(1, 1, VIEWS, 1)


def mmdet_head(levels: int, dtype=torch.float64):
    """A head of mmdet with random values everywhere, also where it starts from zeros and ones."""
    torch.manual_seed(3)
    attention = dict(embed_dims=DIM, num_heads=HEADS, dropout=0.0, batch_first=True)
    # another test of the process may have left our scope as the default
    with DefaultScope.overwrite_default_scope('mmdet'):
        head = mask2former.Mask2FormerHead(
            in_channels=[8] * (levels + 1),
            strides=[4, 8, 16, 32][: levels + 1],
            feat_channels=DIM,
            out_channels=DIM,
            num_things_classes=CLASSES,
            num_stuff_classes=0,
            num_queries=QUERIES,
            num_transformer_feat_level=levels,
            pixel_decoder=ConfigDict(
                type='MSDeformAttnPixelDecoder',
                num_outs=levels,
                norm_cfg=dict(type='GN', num_groups=4),
                encoder=dict(
                    num_layers=1,
                    layer_cfg=dict(
                        self_attn_cfg=dict(embed_dims=DIM, num_heads=HEADS, num_levels=levels, num_points=2),
                        ffn_cfg=dict(embed_dims=DIM, feedforward_channels=HIDDEN),
                    ),
                ),
                positional_encoding=dict(num_feats=DIM // 2, normalize=True),
            ),
            positional_encoding=dict(num_feats=DIM // 2, normalize=True),
            transformer_decoder=ConfigDict(
                num_layers=LAYERS,
                layer_cfg=dict(
                    self_attn_cfg=attention,
                    cross_attn_cfg=attention,
                    ffn_cfg=dict(embed_dims=DIM, feedforward_channels=HIDDEN, ffn_drop=0.0),
                ),
            ),
            loss_cls=ConfigDict(type='CrossEntropyLoss', class_weight=[1.0] * CLASSES + [0.1]),
        )
    head.init_weights()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return head.to(dtype).eval()


def checkpoint_of(head) -> dict[str, torch.Tensor]:
    """What mmdet saves of a whole detector with this head."""
    state = {f'panoptic_head.{name}': value.detach().clone() for name, value in head.state_dict().items()}
    return state | {'backbone.conv1.weight': torch.zeros(2, 3, 1, 1)}


def in_detectron2(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights as detectron2's Mask2Former calls them, written out here once more."""
    attention = {'cross': 'multihead_attn', 'self': 'self_attn'}
    norms = {'0': 'transformer_cross_attention_layers', '1': 'transformer_self_attention_layers'}
    norms['2'] = 'transformer_ffn_layers'
    rules = [
        (r'(cross|self)_attn\.attn', lambda m: f'transformer_{m[2]}_attention_layers.{m[1]}.{attention[m[2]]}'),
        (r'norms\.(\d)', lambda m: f'{norms[m[2]]}.{m[1]}.norm'),
        (r'ffn\.layers\.0\.0()', lambda m: f'transformer_ffn_layers.{m[1]}.linear1'),
        (r'ffn\.layers\.1()', lambda m: f'transformer_ffn_layers.{m[1]}.linear2'),
    ]
    renamed = {}
    for name, value in state.items():
        new = name.replace('panoptic_head.', 'sem_seg_head.predictor.')
        new = new.replace('predictor.pixel_decoder', 'pixel_decoder').replace('cls_embed', 'class_embed')
        new = re.sub(r'mask_embed\.(\d)', lambda m: f'mask_embed.layers.{int(m[1]) // 2}', new)
        new = new.replace('transformer_decoder.post_norm', 'decoder_norm')
        for pattern, result in rules:
            new = re.sub(r'transformer_decoder\.layers\.(\d+)\.' + pattern, result, new)
        renamed[new] = value
    return renamed | {'criterion.empty_weight': torch.ones(4)}


def features(dtype=torch.float64):
    """G, M and a classifier shared by both sides; M so large that masks are on here and off there."""
    torch.manual_seed(5)
    tokens = torch.randn(BATCH, VIEWS, GRID[0] * GRID[1], DIM, dtype=dtype, requires_grad=True)
    masks = torch.randn(BATCH, VIEWS, DIM, 4 * GRID[0], 4 * GRID[1], dtype=dtype, requires_grad=True)
    return tokens, masks


def ask_mmdet(head, tokens, masks, levels):
    """mmdet on one image, the views of a scene below each other.

    Its masks are reduced fourfold for the attention, where each cell reads its own pixels only: views do not mix.
    """
    tall = tokens.unflatten(2, GRID).permute(0, 4, 1, 2, 3).flatten(2, 3)
    head.pixel_decoder = Given(masks.transpose(1, 2).flatten(2, 3), tall, levels)
    head.decoder_positional_encoding = PositionsOfEachView(head.decoder_positional_encoding)
    classes, logits = head([tall], None)
    return classes, [m.unflatten(2, (VIEWS, -1)) for m in logits]


def load(checkpoint: Path, **changes) -> QueryDecoder:
    torch.manual_seed(11)
    decoder = QueryDecoder(**(OUR_SIZES | changes), init_cfg=dict(type='Pretrained', checkpoint=str(checkpoint)))
    decoder.init_weights()
    return decoder


def classifier_of(head) -> LinearClassifier:
    classifier = LinearClassifier(dim=DIM, num_classes=CLASSES)
    classifier.linear.load_state_dict(head.cls_embed.state_dict())
    return classifier


def predict(decoder, tokens, masks, classifier):
    return decoder(tokens, masks, ViewFeatures({'G': tokens}, GRID), classifier).predictions


def save(state, path: Path) -> Path:
    torch.save({'meta': {'epoch': 50}, 'state_dict': state}, path)
    return path


@pytest.mark.parametrize('levels', [1, 3])
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_every_prediction_and_gradient_is_that_of_mmdet(tmp_path, levels, dtype, tolerance):
    """With one scale as it is, and with three that all see it: the level embeddings sit in the biases."""
    head = mmdet_head(levels, dtype)
    decoder = load(save(checkpoint_of(head), tmp_path / 'mmdet.pth')).to(dtype)
    if dtype == torch.float64:  # loading went through float32 parameters: repeat it in full precision
        decoder.load_official(str(tmp_path / 'mmdet.pth'))
    tokens, masks = features(dtype)
    classes, logits = ask_mmdet(head, tokens, masks, levels)
    ours = predict(decoder, tokens, masks, classifier_of(head).to(dtype))
    assert len(ours) == len(classes) == LAYERS + 1
    for prediction, expected_classes, expected_masks in zip(ours, classes, logits, strict=True):
        torch.testing.assert_close(prediction.classes, expected_classes, rtol=tolerance, atol=tolerance)
        scale = expected_masks.abs().max().item()
        torch.testing.assert_close(prediction.masks, expected_masks, rtol=tolerance, atol=tolerance * scale)

    blocked = torch.stack([prediction.masks for prediction in ours[:-1]]) < 0
    assert 0.2 < blocked.double().mean() < 0.8, 'the case must have both seen and unseen cells'

    weights = [torch.randn_like(c) for c in classes], [torch.randn_like(m) for m in logits]

    def gradients(both, parameters):
        terms = [(x * w).mean() for xs, ws in zip(both, weights, strict=True) for x, w in zip(xs, ws, strict=True)]
        return torch.autograd.grad(sum(terms), [tokens, masks, *parameters])

    theirs = [head.query_feat.weight, head.query_embed.weight, *attention_of(head.transformer_decoder.layers, 'attn')]
    mine = [decoder.query_feature.weight, decoder.query_position.weight, *attention_of(decoder.layers, 'attention')]
    expected = without_levels(gradients((classes, logits), theirs), head.level_embed.weight)
    found = gradients(([p.classes for p in ours], [p.masks for p in ours]), mine)
    for value, wanted in zip(found, expected, strict=True):
        assert wanted.abs().max() > 0
        torch.testing.assert_close(value, wanted, rtol=tolerance, atol=tolerance * wanted.abs().max().item())


def attention_of(layers, name):
    kinds = ('cross_attn', 'self_attn') if name == 'attn' else ('cross_attention', 'self_attention')
    attentions = [getattr(getattr(layer, kind), name) for layer in layers for kind in kinds]
    return [p for a in attentions for p in (a.in_proj_weight, a.in_proj_bias, a.out_proj.weight, a.out_proj.bias)]


def without_levels(gradients, levels):
    """mmdet's gradients for values that come without the level embedding e, since b_v = b + W_v e holds it.

    Of dW_v = (sum of dv x^T) + db e^T the second part falls away. The keys need no change: their bias has no gradient.
    """
    changed = list(gradients)
    for layer in range(LAYERS):
        weight, bias = (4 + 8 * layer + i for i in range(2))
        assert changed[bias].shape == (3 * DIM,)
        changed[weight] = changed[weight].clone()
        changed[weight][-DIM:] -= changed[bias][-DIM:, None] * levels[layer % len(levels)].detach()
    return changed


def test_an_empty_mask_looks_everywhere_as_in_mmdet(tmp_path):
    head = mmdet_head(1)
    decoder = load(save(checkpoint_of(head), tmp_path / 'mmdet.pth')).double()
    decoder.load_official(str(tmp_path / 'mmdet.pth'))
    tokens, masks = features()
    masks = torch.zeros_like(masks)
    masks[:, :, 0] = 1
    with torch.no_grad():  # every query off everywhere: -1 in the one channel that M has
        for mlp in (head.mask_embed, decoder.mask_embedding):
            mlp[-1].weight.zero_()
            mlp[-1].bias.fill_(-1)
    classes, logits = ask_mmdet(head, tokens, masks, 1)
    assert (logits[0] == -1).all()
    ours = predict(decoder, tokens, masks, classifier_of(head).double())
    assert ours[-1].classes.isfinite().all()
    torch.testing.assert_close(ours[-1].classes, classes[-1], rtol=1e-10, atol=1e-10)


def test_positions_are_those_of_mmdet():
    head = mmdet_head(1, torch.float32)
    expected = head.decoder_positional_encoding(torch.zeros(1, 5, 9, dtype=torch.bool))[0].flatten(1).T
    torch.testing.assert_close(sine_position_encoding((5, 9), DIM), expected, rtol=1e-6, atol=1e-6)


# --- files ---------------------------------------------------------------------------------------------------------


def as_pickle(state, path: Path, protocol: int = 2) -> Path:
    content = {'model': {name: value.numpy() for name, value in state.items()}, '__author__': 'somebody'}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.fixture(scope='module')
def released() -> dict[str, torch.Tensor]:
    return checkpoint_of(mmdet_head(3, torch.float32))


def assert_same(one: QueryDecoder, other: QueryDecoder) -> None:
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize('protocol', [2, 4])
def test_the_names_of_detectron2_give_the_same_network(released, tmp_path, protocol):
    expected = load(save(released, tmp_path / 'mmdet.pth'))
    theirs = in_detectron2(released)
    assert f'{DETECTRON2.prefix}transformer_cross_attention_layers.4.multihead_attn.in_proj_bias' in theirs
    assert_same(load(as_pickle(theirs, tmp_path / 'model_final.pkl', protocol)), expected)
    torch.save({'model': theirs}, tmp_path / 'model.pth')
    assert_same(load(tmp_path / 'model.pth'), expected)


def test_files_from_before_a_name_changed_load(released, tmp_path):
    theirs = {name.replace('query_feat.', 'static_query.'): value for name, value in in_detectron2(released).items()}
    assert_same(load(as_pickle(theirs, tmp_path / 'old.pkl')), load(save(released, tmp_path / 'mmdet.pth')))


def test_the_names_of_mmdet_2_load(released, tmp_path):
    """Parts of a layer were numbered in their order: attention to the tokens, then among the queries."""
    new_to_old = {'.cross_attn.': '.attentions.0.', '.self_attn.': '.attentions.1.', '.ffn.layers.': '.ffns.0.layers.'}
    old = {}
    for name, value in released.items():
        if 'transformer_decoder.layers' in name:
            for new, former in new_to_old.items():
                name = name.replace(new, former)
        old[name] = value
    assert 'panoptic_head.transformer_decoder.layers.4.ffns.0.layers.0.0.bias' in old
    assert_same(load(save(old, tmp_path / 'old.pth')), load(save(released, tmp_path / 'mmdet.pth')))


@pytest.fixture
def said(monkeypatch) -> list[str]:
    texts: list[str] = []
    for module in ('query_decoder', 'mask2former_weights'):
        monkeypatch.setattr(f'pano3d.models.{module}.print_log', lambda text, **_: texts.append(text))
    return texts


def test_what_is_left_out_is_said(released, tmp_path, said):
    load(save(released, tmp_path / 'mmdet.pth'))
    log = '\n'.join(said)
    assert 'left out 1 weights backbone.* (only the query decoder is taken)' in log
    assert 'left out 2 weights panoptic_head.cls_embed.* (its classes are not ours)' in log
    assert re.search(r'left out \d+ weights panoptic_head.pixel_decoder.\* \(G comes from', log)
    assert 'queries' not in log
    said.clear()
    load(as_pickle(in_detectron2(released), tmp_path / 'd2.pkl'))
    log = '\n'.join(said)
    for part in ('left out 1 weights backbone.*', 'left out 1 weights criterion.*', 'weights sem_seg_head.*'):
        assert part in log
    assert 'left out 2 weights sem_seg_head.predictor.class_embed.* (its classes are not ours)' in log


@pytest.mark.parametrize(
    ('wanted', 'words'), [(10, 'copied 7 of 7 queries, 3 keep their random start'), (4, 'copied 4 of 7 queries, left')]
)
def test_another_number_of_queries(released, tmp_path, said, wanted, words):
    decoder = load(save(released, tmp_path / 'mmdet.pth'), num_queries=wanted)
    assert sum(words in text for text in said) == 2  # features and positions
    torch.manual_seed(11)
    start = QueryDecoder(**(OUR_SIZES | {'num_queries': wanted}))
    for ours, theirs in (('query_feature', 'query_feat'), ('query_position', 'query_embed')):
        value, file = getattr(decoder, ours).weight, released[f'panoptic_head.{theirs}.weight']
        assert torch.equal(value[:7], file[:wanted])
        assert torch.equal(value[7:], getattr(start, ours).weight[7:])


def test_a_file_with_other_sizes_is_refused_and_changes_nothing(released, tmp_path):
    path = save(released, tmp_path / 'mmdet.pth')
    with pytest.raises(ValueError, match=r'18 unexpected in layers: layers\.4'):
        load(path, num_layers=4)
    with pytest.raises(ValueError, match=r'18 missing in layers: layers\.5'):
        load(path, num_layers=6)
    decoder = QueryDecoder(**(OUR_SIZES | {'feedforward_dim': 64}))
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    with pytest.raises(ValueError, match=r'expected \(64, 32\), found \(48, 32\)'):
        decoder.load_official(str(path))
    assert all(torch.equal(value, before[name]) for name, value in decoder.state_dict().items())


def test_another_network_is_refused_with_both_namings(tmp_path):
    with pytest.raises(ValueError, match=r'panoptic_head\.\* \(mmdet\) or sem_seg_head.*found the parts backbone'):
        load(save({'backbone.weight': torch.ones(1)}, tmp_path / 'other.pth'))


def test_a_file_without_level_embeddings_is_refused(released, tmp_path):
    state = {name: value for name, value in released.items() if 'level_embed' not in name}
    with pytest.raises(ValueError, match='level_embed'):
        load(save(state, tmp_path / 'mmdet.pth'))


def test_a_pickle_with_anything_but_arrays_is_refused(tmp_path):
    class Command:
        def __reduce__(self):
            return Path.touch, (tmp_path / 'was_run',)

    (tmp_path / 'bad.pkl').write_bytes(pickle.dumps({'model': Command()}))
    with pytest.raises(ValueError, match=r'bad.pkl: .* it asks for .*; save its weights alone'):
        load(tmp_path / 'bad.pkl')
    assert not (tmp_path / 'was_run').exists()
    (tmp_path / 'objects.pkl').write_bytes(pickle.dumps({'model': np.array([None, {}])}))
    with pytest.raises(ValueError, match=r'objects\.pkl'):
        load(tmp_path / 'objects.pkl')


def test_without_a_file_layers_start_as_before_and_a_second_call_after_loading_changes_nothing(released, tmp_path):
    fresh = QueryDecoder(**OUR_SIZES)
    fresh.init_weights()
    weight = fresh.layers[0].feedforward[0].weight
    assert weight.abs().max() <= (6 / (DIM + HIDDEN)) ** 0.5
    assert weight.std().item() == pytest.approx((2 / (DIM + HIDDEN)) ** 0.5, rel=0.1)
    decoder = load(save(released, tmp_path / 'mmdet.pth'))
    with torch.no_grad():
        decoder.norm.weight.fill_(3)
    decoder.init_weights()
    assert (decoder.norm.weight == 3).all()


def test_both_maps_name_all_weights_of_the_decoder():
    own = set(QueryDecoder(**OUR_SIZES).state_dict()) | {'level_embedding.weight'}
    own = {re.sub(r'layers\.\d+', 'layers.*', name) for name in own}
    for naming in (MMDET, DETECTRON2):
        targets = tuple(naming.names.values())
        assert all(name.startswith(targets) for name in own)
        assert all(any(name.startswith(target) for name in own) for target in targets)
