"""Released Mask2Former networks as a start for the query decoder: two namings, one scale in place of three."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.logging import print_log
from torch import Tensor

from .loading import rename

QUERIES = ('query_feature.weight', 'query_position.weight')
LEVELS = 'level_embedding.weight'
"""What the three level embeddings are called on the way; `QueryDecoder` has none."""

CLASSES = 'its classes are not ours'
PIXELS = 'G comes from the feature bridge, M from the mask upscaler'


@dataclass(frozen=True)
class Naming:
    """How one library calls the weights of Mask2Former.

    Args:
        library: for messages.
        prefix: of the decoder among the weights of the whole network; what lies elsewhere is left out.
        names: without `prefix`, their prefixes -> ours; `*` is the number of a layer.
        left_out: without `prefix`, prefixes of what `QueryDecoder` has no place for -> the reason.
    """

    library: str
    prefix: str
    names: Mapping[str, str] = field(hash=False)
    left_out: Mapping[str, str] = field(hash=False)


MMDET = Naming(
    library='mmdet',
    prefix='panoptic_head.',
    names={
        'query_feat.': 'query_feature.',
        'query_embed.': 'query_position.',
        'level_embed.': 'level_embedding.',
        'transformer_decoder.layers.*.cross_attn.attn.': 'layers.*.cross_attention.attention.',
        'transformer_decoder.layers.*.norms.0.': 'layers.*.cross_attention.norm.',
        'transformer_decoder.layers.*.self_attn.attn.': 'layers.*.self_attention.attention.',
        'transformer_decoder.layers.*.norms.1.': 'layers.*.self_attention.norm.',
        'transformer_decoder.layers.*.ffn.layers.0.0.': 'layers.*.feedforward.0.',
        'transformer_decoder.layers.*.ffn.layers.1.': 'layers.*.feedforward.2.',
        # mmdet 2
        'transformer_decoder.layers.*.attentions.0.attn.': 'layers.*.cross_attention.attention.',
        'transformer_decoder.layers.*.attentions.1.attn.': 'layers.*.self_attention.attention.',
        'transformer_decoder.layers.*.ffns.0.layers.0.0.': 'layers.*.feedforward.0.',
        'transformer_decoder.layers.*.ffns.0.layers.1.': 'layers.*.feedforward.2.',
        'transformer_decoder.layers.*.norms.2.': 'layers.*.feedforward_norm.',
        'transformer_decoder.post_norm.': 'norm.',
        'mask_embed.': 'mask_embedding.',
    },
    left_out={'cls_embed.': CLASSES, 'pixel_decoder.': PIXELS, 'decoder_input_projs.': PIXELS},
)

DETECTRON2 = Naming(
    library='detectron2',
    prefix='sem_seg_head.predictor.',
    names={
        'query_feat.': 'query_feature.',
        'static_query.': 'query_feature.',  # in files from before the name changed
        'query_embed.': 'query_position.',
        'level_embed.': 'level_embedding.',
        'transformer_cross_attention_layers.*.multihead_attn.': 'layers.*.cross_attention.attention.',
        'transformer_cross_attention_layers.*.norm.': 'layers.*.cross_attention.norm.',
        'transformer_self_attention_layers.*.self_attn.': 'layers.*.self_attention.attention.',
        'transformer_self_attention_layers.*.norm.': 'layers.*.self_attention.norm.',
        'transformer_ffn_layers.*.linear1.': 'layers.*.feedforward.0.',
        'transformer_ffn_layers.*.linear2.': 'layers.*.feedforward.2.',
        'transformer_ffn_layers.*.norm.': 'layers.*.feedforward_norm.',
        'decoder_norm.': 'norm.',
        'mask_embed.layers.0.': 'mask_embedding.0.',
        'mask_embed.layers.1.': 'mask_embedding.2.',
        'mask_embed.layers.2.': 'mask_embedding.4.',
    },
    left_out={'class_embed.': CLASSES, 'input_proj.': PIXELS},
)

NAMINGS = (MMDET, DETECTRON2)


def query_decoder_weights(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The weights of `QueryDecoder` in the state dict of a whole Mask2Former network; the log says what is left out.

    Mask2Former's layer i looks at scale i modulo 3, to whose tokens it has added an embedding e_i of that scale. On one
    scale e_i is one constant for all keys and values of the layer: it moves all attention logits of a query alike,
    which changes nothing, and the attended value by W_v e_i, which is added to the bias of the values here. No
    embedding is left over and no output changes.

    Raises:
        ValueError: if it has neither the names of mmdet nor those of detectron2.
    """
    naming = next((n for n in NAMINGS if f'{n.prefix}query_embed.weight' in state), None)
    if naming is None:
        wanted = ' or '.join(f'{n.prefix}* ({n.library})' for n in NAMINGS)
        parts = ', '.join(sorted({name.partition('.')[0] for name in state}))
        raise ValueError(
            f'{path}: expected Mask2Former with weights {wanted}, found the parts {parts}; give a released Mask2Former '
            'file, or load a checkpoint of the whole model with `load_from`'
        )
    inside = {name.removeprefix(naming.prefix): v for name, v in state.items() if name.startswith(naming.prefix)}
    elsewhere = Counter(name.partition('.')[0] for name in state if not name.startswith(naming.prefix))
    for part, count in elsewhere.items():
        _say_left_out(path, count, f'{part}.*', 'only the query decoder is taken')
    for prefix, reason in naming.left_out.items():
        unused = [name for name in inside if name.startswith(prefix)]
        if unused:
            _say_left_out(path, len(unused), f'{naming.prefix}{prefix}*', reason)
        inside = {name: value for name, value in inside.items() if not name.startswith(prefix)}
    return _without_levels(rename(inside, _for_each_layer(naming.names, inside)), path)


def fit_queries(state: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The state with as many queries as `own` has: the first of the file, then those of `own`; the log says so."""
    fitted = dict(state)
    for name in QUERIES:
        if name in state and state[name].shape[1:] == own[name].shape[1:]:  # else the strict comparison says it
            found, wanted = len(state[name]), len(own[name])
            fitted[name] = own[name].clone()
            fitted[name][: min(found, wanted)] = state[name][:wanted]
            if found != wanted:
                rest = f'{wanted - found} keep their random start' if found < wanted else f'left out {found - wanted}'
                print_log(f'{path}: {name}: copied {min(found, wanted)} of {found} queries, {rest}', logger='current')
    return fitted


def _for_each_layer(names: Mapping[str, str], state: Mapping[str, Tensor]) -> dict[str, str]:
    """The map with `*` replaced by each number of a layer that occurs."""
    numbers = {number for name in state for number in re.findall(r'layers\.(\d+)\.', name)}
    return {
        old.replace('*', number): new.replace('*', number) for old, new in names.items() for number in numbers or {'0'}
    }


def _without_levels(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The level embeddings in the biases of the values, see `query_decoder_weights`."""
    folded = {name: value for name, value in state.items() if name != LEVELS}
    if LEVELS not in state:
        raise ValueError(f'{path}: expected the level embeddings `level_embed.weight` of Mask2Former, found none')
    levels = state[LEVELS]
    for name in state:
        match = re.fullmatch(r'(layers\.(\d+)\.cross_attention\.attention\.)in_proj_weight', name)
        if match and f'{match[1]}in_proj_bias' in state:
            dim = levels.shape[1]
            bias = state[f'{match[1]}in_proj_bias'].clone()
            bias[-dim:] += state[name][-dim:] @ levels[int(match[2]) % len(levels)]  # W_v e_i
            folded[f'{match[1]}in_proj_bias'] = bias
    return folded


def _say_left_out(path: Path, count: int, names: str, reason: str) -> None:
    print_log(f'{path}: left out {count} weights {names} ({reason})', logger='current')
