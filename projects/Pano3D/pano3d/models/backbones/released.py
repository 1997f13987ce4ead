"""The released networks that the backbones can hold, and what to know before their weights are used.

Only names, sizes and terms are kept here, no weights. `terms_from` says where the terms were read; what counts is what
the owner says when the file is fetched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ReleasedNetwork:
    """One set of weights as its owners publish it.

    Args:
        name: as the owners call it.
        backbone: the config of the backbone that holds it.
        files: names of the released files.
        source: where the owners publish it: repository of the code, and of the weights on the Hugging Face hub.
        licence: terms of the weights.
        terms_from: where these terms were read.
        image_sizes: width x height of its training images, also transposed unless square.
    """

    name: str
    files: tuple[str, ...]
    source: str
    licence: str
    terms_from: str
    image_sizes: str
    backbone: Mapping[str, Any] = field(hash=False)


WIDE_SIZES = '512x384, 512x336, 512x288, 512x256, 512x160'
NAVER_TERMS = 'CC BY-NC-SA 4.0 (no commercial use), and the terms of the training data'
MUST3R_TERMS = (
    'MUSt3R Non-Commercial License, and the terms of the training data, of which those of mapfree are very restrictive'
)


def _dust3r(variant: str, image_sizes: str, head: str) -> ReleasedNetwork:
    name = f'DUSt3R_ViTLarge_BaseDecoder_{variant}'
    return ReleasedNetwork(
        name=name,
        files=(f'{name}.pth', 'model.safetensors'),
        source=f'code naver/dust3r, hub naver/{name}',
        licence=NAVER_TERMS,
        terms_from='README of naver/dust3r, which speaks of the code; not confirmed for the weights',
        image_sizes=image_sizes,
        backbone={'type': 'DUSt3RBackbone', 'head': head},
    )


def _must3r(name: str, image_sizes: str) -> ReleasedNetwork:
    return ReleasedNetwork(
        name=name,
        files=(f'{name}.pth',),
        source='code naver/must3r, weights linked in its README',
        licence=MUST3R_TERMS,
        terms_from='README and CHECKPOINTS_NOTICE of naver/must3r',
        image_sizes=image_sizes,
        backbone={'type': 'MUSt3RBackbone'},
    )


RELEASED = (
    _dust3r('512_dpt', WIDE_SIZES, 'dpt'),
    _dust3r('512_linear', WIDE_SIZES, 'linear'),
    _dust3r('224_linear', '224x224', 'linear'),
    ReleasedNetwork(
        name='MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric',
        files=('MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric.pth', 'model.safetensors'),
        source='code naver/mast3r, hub naver/MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric',
        licence=f'{NAVER_TERMS}, of which those of mapfree are very restrictive',
        terms_from='README of naver/mast3r',
        image_sizes=WIDE_SIZES,
        backbone={'type': 'MASt3RBackbone'},
    ),
    _must3r('MUSt3R_512', WIDE_SIZES),
    _must3r('MUSt3R_512_cvpr', WIDE_SIZES),
    _must3r('MUSt3R_224_cvpr', '224x224'),
    ReleasedNetwork(
        name='VGGT-1B',
        files=('model.safetensors', 'model.pt'),
        source='code facebookresearch/vggt, hub facebook/VGGT-1B',
        licence='CC BY-NC 4.0 (no commercial use)',
        terms_from='others who quote the README of facebookresearch/vggt and the hub; not confirmed',
        image_sizes='long side 518',
        backbone={'type': 'VGGTBackbone'},
    ),
    ReleasedNetwork(
        name='VGGT-1B-Commercial',
        files=('model.safetensors', 'model.pt'),
        source='code facebookresearch/vggt, hub facebook/VGGT-1B-Commercial (access on request)',
        licence='VGGT licence: commercial use allowed, military use not',
        terms_from='others who quote the README of facebookresearch/vggt; not confirmed',
        image_sizes='long side 518',
        backbone={'type': 'VGGTBackbone'},
    ),
    ReleasedNetwork(
        name='Pi3',
        files=('model.safetensors',),
        source='code yyfz/Pi3, hub yyfz233/Pi3',
        licence='CC BY-NC 4.0 (no commercial use)',
        terms_from='others who quote the README of yyfz/Pi3; not confirmed, and the hub is said to name BSD-2-Clause',
        image_sizes='about 255000 pixels of any proportions',
        backbone={'type': 'Pi3Backbone'},
    ),
    ReleasedNetwork(
        name='Pi3X',
        files=('model.safetensors',),
        source='code yyfz/Pi3, hub yyfz233/Pi3X',
        licence='CC BY-NC 4.0 (no commercial use)',
        terms_from='others who quote the README of yyfz/Pi3 and the hub; not confirmed',
        image_sizes='about 255000 pixels of any proportions',
        backbone={'type': 'Pi3XBackbone'},
    ),
)
