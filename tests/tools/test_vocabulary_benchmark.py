"""The study of synonyms asks for words that no training has seen, and for the same classes in the same order."""

import vocabulary

from pano3d.structures import LabelSpace, TextEmbeddings


def test_synonyms_are_new_words_with_shipped_vectors():
    space = LabelSpace.load('scannet20')
    words = set(vocabulary.SYNONYMS.values())
    assert set(vocabulary.SYNONYMS) <= set(space.names)
    assert not words & set(space.names)
    assert words <= set(TextEmbeddings.load('minilm').names)


def test_vocabularies_differ_in_the_twelve_words_only():
    space = LabelSpace.load('scannet20')
    trained, synonyms, wrong = vocabulary.vocabularies(space).values()
    assert trained == space
    for index, name in enumerate(space.names):
        assert synonyms.names[index] == vocabulary.SYNONYMS.get(name, name)
        assert (wrong.names[index] == synonyms.names[index]) == (name not in vocabulary.SYNONYMS)
    assert synonyms.stuff == {'partition', 'ground'}
    assert sorted(wrong.names) == sorted(synonyms.names)
