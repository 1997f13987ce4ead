"""A backbone of the package and its plain peer, of the same size and with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from plain import PlainDUSt3R, PlainMUSt3R, PlainPi3, PlainVGGT
from torch import Tensor, nn

from pano3d.models.backbones import Backbone, DUSt3RBackbone, MUSt3RBackbone, Pi3Backbone, VGGTBackbone

SEED = 0
SCALES = ('tiny', 'small', 'full')
LAST_LAYERS = ('.head.4.weight', '.output_conv2.2.weight', '_head.proj.weight', 'head_dec.proj.weight')
"""What goes into an exponential: kept small, so that its rounding does not grow."""


@dataclass(frozen=True)
class Family:
    """How the two networks of a kind are made and called.

    Args:
        ours: constructor of the package's backbone.
        plain: constructor of the peer; both have the same parameters.
        sizes: parameters at each scale.
        views: how many views are tried by default.
        run_plain: the peer's outputs for images (B, V, 3, H, W), with the names and shapes of ours.
    """

    ours: Callable[..., Backbone]
    plain: Callable[..., nn.Module]
    sizes: dict[str, dict[str, Any]]
    views: int
    run_plain: Callable[[nn.Module, Tensor], dict[str, Tensor]]


def run_dust3r(network: PlainDUSt3R, images: Tensor) -> dict[str, Tensor]:
    """The pairs of the first view with every other one, both ways; every image is encoded once."""
    batch, views = images.shape[:2]
    size = images.shape[-2:]
    tokens, positions = (x.unflatten(0, (batch, views)) for x in network.encode(images.flatten(0, 1)))
    others = list(range(1, views))
    first, second = [0] * len(others) + others, others + [0] * len(others)

    def side(index: list[int]) -> tuple[Tensor, Tensor]:
        return tokens[:, index].flatten(0, 1), positions[:, index].flatten(0, 1)

    found = {
        name: value.unflatten(0, (batch, len(first)))
        for name, value in network.predict(side(first), side(second), size, size).items()
    }
    decoded1, decoded2 = (found[f'decoded{k}'][:, : len(others)] for k in (1, 2))
    return {
        'encoded': tokens,
        'decoded': torch.cat([decoded1.mean(1, keepdim=True), decoded2], dim=1),
        'pair_points': torch.stack([found['points1'], found['points2']], dim=2),
        'pair_confidence': torch.stack([found['confidence1'], found['confidence2']], dim=2),
    }


def run_must3r(network: PlainMUSt3R, images: Tensor) -> dict[str, Tensor]:
    """All views enter the memory, the first two together and then one by one; then all are rendered."""
    views = list(range(images.shape[1]))
    return network(images, [views[:2], *([view] for view in views[2:])])


def run_at_once(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    return network(images)


FAMILIES = {
    'dust3r': Family(
        ours=DUSt3RBackbone,
        plain=PlainDUSt3R,
        sizes={
            'tiny': dict(
                encoder_dim=48,
                encoder_depth=2,
                encoder_heads=4,
                decoder_dim=32,
                decoder_depth=5,
                decoder_heads=2,
                dense_features=16,
                dense_hidden=12,
                dense_channels=(12, 16, 20, 24),
            ),
            'small': dict(
                encoder_dim=384,
                encoder_depth=6,
                encoder_heads=6,
                decoder_dim=384,
                decoder_depth=6,
                decoder_heads=6,
                dense_features=128,
                dense_hidden=64,
                dense_channels=(48, 96, 192, 384),
            ),
            'full': dict(),
        },
        views=2,
        run_plain=run_dust3r,
    ),
    'must3r': Family(
        ours=MUSt3RBackbone,
        plain=PlainMUSt3R,
        sizes={
            'tiny': dict(
                encoder_dim=48, encoder_depth=2, encoder_heads=4, decoder_dim=32, decoder_depth=3, decoder_heads=2
            ),
            'small': dict(
                encoder_dim=384, encoder_depth=6, encoder_heads=6, decoder_dim=384, decoder_depth=6, decoder_heads=6
            ),
            'full': dict(),
        },
        views=4,
        run_plain=run_must3r,
    ),
    'vggt': Family(
        ours=VGGTBackbone,
        plain=PlainVGGT,
        sizes={
            'tiny': dict(
                position_grid=3,
                embed_dim=48,
                encoder_depth=2,
                encoder_heads=4,
                decoder_depth=4,
                decoder_heads=3,
                camera_depth=2,
                camera_heads=4,
                dense_layers=(0, 1, 2, 3),
                dense_channels=(16, 20, 24, 28),
                dense_features=16,
            ),
            'small': dict(
                embed_dim=384,
                encoder_depth=6,
                encoder_heads=6,
                decoder_depth=6,
                decoder_heads=6,
                camera_depth=2,
                camera_heads=6,
                dense_layers=(1, 2, 4, 5),
                dense_channels=(96, 192, 384, 384),
                dense_features=128,
            ),
            'full': dict(),
        },
        views=4,
        run_plain=run_at_once,
    ),
    'pi3': Family(
        ours=Pi3Backbone,
        plain=PlainPi3,
        sizes={
            'tiny': dict(
                position_grid=3,
                embed_dim=48,
                encoder_depth=2,
                encoder_heads=4,
                decoder_depth=4,
                decoder_heads=3,
                head_dim=32,
                head_depth=2,
                head_heads=2,
                dense_channels=24,
                camera_channels=20,
            ),
            'small': dict(
                embed_dim=384,
                encoder_depth=6,
                encoder_heads=6,
                decoder_depth=12,
                decoder_heads=6,
                head_dim=384,
                head_depth=3,
                head_heads=6,
                dense_channels=384,
                camera_channels=192,
            ),
            'full': dict(),
        },
        views=4,
        run_plain=run_at_once,
    ),
}


def build_pair(family: Family, scale: str, device: torch.device) -> tuple[Backbone, nn.Module]:
    """Ours and the plain peer; they share one set of random weights, which exists once."""
    with device:
        plain = family.plain(**family.sizes[scale]).eval().requires_grad_(False)
        ours = family.ours(**family.sizes[scale]).eval()
    randomise(plain)
    share_weights(ours, plain.state_dict())
    return ours.requires_grad_(False), plain


def randomise(network: nn.Module) -> None:
    """Weights that keep the variance from layer to layer and leave no part without an effect."""
    device = next(network.parameters()).device
    generator = torch.Generator(device).manual_seed(SEED)
    for name, parameter in network.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, device=device)
        if parameter.ndim >= 2 and name.endswith('weight'):
            fan_in = parameter[0].numel()
            parameter.data = noise * (0.2 if name.endswith(LAST_LAYERS) else 1.0) / fan_in**0.5
        elif name.endswith('weight'):  # of a norm
            parameter.data = 1 + 0.1 * noise
        elif name.endswith('gamma'):
            parameter.data = 0.3 + 0.1 * noise
        else:
            parameter.data = 0.1 * noise


def share_weights(ours: Backbone, official: dict[str, Tensor]) -> None:
    """Let our network hold the tensors of an official state instead of its own."""
    state = ours.translate_official(official, Path('weights of the plain network'))
    unused = tuple(ours.unused_weights())
    state = {name: value for name, value in state.items() if not name.startswith(unused)}
    ours.load_state_dict(state, assign=True)


def run_ours(network: Backbone, images: Tensor) -> dict[str, Tensor]:
    """Encoder tokens, decoder tokens and what the heads put out."""
    encoded = network.encode(images)
    decoded = network.decode(encoded)
    prediction = network.regress(encoded, decoded, tuple(images.shape[-2:]))
    return {'encoded': encoded.patches, 'decoded': decoded.patches, **prediction}


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest |a - b| / (1 + |b|) over all numbers: within absolute and relative tolerances that both have this value.

    Raises:
        ValueError: if the outputs have other names or shapes.
    """
    shapes = [{name: tuple(value.shape) for name, value in outputs.items()} for outputs in (found, expected)]
    if shapes[0] != shapes[1]:
        raise ValueError(f'our outputs are {shapes[0]}, those of the plain network {shapes[1]}')
    return max(((found[name] - value).abs() / (1 + value.abs())).max().item() for name, value in expected.items())
