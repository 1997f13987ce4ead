"""The parts of the model that training regimes tell apart, and which of them a regime trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from .pano3d import Pano3D

BACKBONE_PARTS = ('encoder', 'decoder', 'geometry_heads')
PARTS = (*BACKBONE_PARTS, 'segmentation_head')


def part_of(model: Pano3D, name: str) -> str:
    """One of `PARTS` for a parameter of the model by its name; 'other' for the rest, such as learned loss weights."""
    module, _, inner = name.partition('.')
    if module == 'head':
        return 'segmentation_head'
    if module != 'backbone':
        return 'other'
    places = {'encoder': model.backbone.encoder_modules(), 'geometry_heads': model.backbone.geometry_heads()}
    for part, prefixes in places.items():
        if any(inner == prefix or inner.startswith(f'{prefix}.') for prefix in prefixes):
            return part
    return 'decoder'


def parameters_by_part(model: Pano3D) -> dict[str, dict[str, nn.Parameter]]:
    """All parameters of the model, frozen or not: part -> name -> parameter."""
    parts: dict[str, dict[str, nn.Parameter]] = {part: {} for part in (*PARTS, 'other')}
    for name, parameter in model.named_parameters():
        parts[part_of(model, name)][name] = parameter
    return parts


def freeze_parts(model: Pano3D) -> None:
    """Keep from training what the regime leaves as it is, and what no loss would reach.

    The encoder if it is frozen; the whole backbone if the geometry is; the 3D heads without a geometry loss; the
    panoptic head without a segmentation loss. So every parameter that asks for a gradient gets one, and distributed
    training need not look for unused ones.
    """
    frozen = set(BACKBONE_PARTS) if model.frozen_geometry else set()
    if model.frozen_encoder:
        frozen.add('encoder')
    if model.joint_loss.geometry is None:
        frozen.add('geometry_heads')
    if model.joint_loss.segmentation is None:
        frozen.add('segmentation_head')
    for part, parameters in parameters_by_part(model).items():
        if part in frozen:
            for parameter in parameters.values():
                parameter.requires_grad_(False)
