"""Any words as classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pano3d.models import embed_names
from pano3d.structures import LabelSpace, TextEmbeddings
from pano3d.structures.text_embeddings import EMBEDDING_FOLDER

NAME = 'vocabulary'


def open_vocabulary(
    names: Sequence[str], trained: TextEmbeddings, *, stuff: Sequence[str] = ()
) -> tuple[LabelSpace, TextEmbeddings]:
    """The label space of these names, and their vectors by the encoder of a trained classifier.

    Names that the trained vocabulary or a file of the package knows need no encoder; for others it must be installed.

    Args:
        names: of classes, each once.
        trained: the vocabulary of the classifier.
        stuff: those of `names` that have no countable instances.

    Raises:
        ValueError: if there is no name, one is empty or repeated, `stuff` has others, or the encoder is not at hand.
    """
    names = tuple(name.strip() for name in names)
    if not names or not all(names):
        raise ValueError(f'the vocabulary needs names, none of them empty, got {list(names)}')
    space = LabelSpace(NAME, names, (None,) * len(names), '', frozenset(stuff))
    known = [trained] + [
        embeddings
        for path in sorted(EMBEDDING_FOLDER.glob('*.safetensors'))
        if (embeddings := TextEmbeddings.load(str(path))).encoder == trained.encoder
        and embeddings.prompt == trained.prompt
    ]
    vectors = {}
    for embeddings in reversed(known):  # the trained ones win
        vectors |= dict(zip(embeddings.names, embeddings.vectors, strict=True))
    new = [name for name in names if name not in vectors]
    if new:
        vectors |= dict(zip(new, embed_names(new, trained.encoder, trained.prompt).vectors, strict=True))
    stacked = torch.stack([vectors[name] for name in names])
    return space, TextEmbeddings(names, stacked, trained.encoder, trained.prompt)
