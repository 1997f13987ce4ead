"""Our networks as image backbones, without mmdet3d: what the maps are, what learns, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope
from torch import Tensor

from pano3d.engine import load_config
from pano3d.mmdet3d import ImageFeatures
from pano3d.registry import MODELS

CONFIGS = Path(__file__).parents[2] / 'configs'
NAMES = {'vggt': 'VGGTFeatures', 'pi3': 'Pi3Features', 'must3r': 'MUSt3RFeatures', 'dust3r': 'DUSt3RFeatures'}
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@pytest.fixture(params=NAMES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


def network_of(family: str) -> dict:
    """Arguments of the tiny network of a demo."""
    config = load_config(CONFIGS / f'pano3d_{family}_demo.py').model.backbone.to_dict()
    return {name: value for name, value in config.items() if name != 'type'}


def build(family: str, **options: object) -> ImageFeatures:
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('pano3d'):
        return MODELS.build(dict(type=f'pano3d.{NAMES[family]}', network=network_of(family), **options))


def pictures(features: ImageFeatures, number: int) -> Tensor:
    patch = features.network.patch_size
    return torch.rand(number, 3, 2 * patch, 3 * patch, generator=torch.Generator().manual_seed(1))


def test_the_maps_are_the_tokens_of_the_network_row_by_row(family):
    features = build(family, sources=('decoder', 'encoder'), num_views=2).eval()
    images = pictures(features, 4)
    with torch.no_grad():
        decoder, encoder = features(images)
        encoded = features.network.encode(images.view(2, 2, *images.shape[1:]))
        decoded = features.network.decode(encoded)
    for found, tokens, channels in zip((decoder, encoder), (decoded, encoded), features.out_channels, strict=True):
        assert found.shape == (4, channels, 2, 3)
        assert torch.equal(found[3, :, 1, 2], tokens.patches[1, 1, 5])
        assert torch.equal(found[1, :, 0, 1], tokens.patches[0, 1, 1])
    with torch.no_grad():
        assert torch.equal(features(images.view(2, 2, *images.shape[1:]))[0], decoder)


def test_one_view_is_a_scene_of_its_own(family):
    features = build(family).eval()
    images = pictures(features, 2)
    with torch.no_grad():
        together, apart = features(images)[0], [features(image[None])[0] for image in images]
    torch.testing.assert_close(together, torch.cat(apart), rtol=0, atol=1e-5)


def test_what_the_preprocessor_did_is_undone():
    plain, undoing = build('vggt').eval(), build('vggt', mean=MEAN, std=STD).eval()
    images = pictures(plain, 1)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        expected, found = plain(images)[0], undoing((images * 255 - mean) / std)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_all_that_asks_for_a_gradient_gets_one():
    features = build('vggt', num_views=2)
    features(pictures(features, 2))[0].square().sum().backward()
    assert [n for n, p in features.named_parameters() if p.requires_grad and p.grad is None] == []
    trained = {n.split('.')[2] for n, p in features.named_parameters() if p.requires_grad}
    assert {'frame_blocks', 'global_blocks'} <= trained
    assert not {'patch_embed', 'token_norm'} & trained
    features.train()
    assert features.training and not features.network.aggregator.patch_embed.training


def test_monocular_features_alone_train_the_encoder_alone():
    features = build('vggt', sources=('encoder',), frozen_encoder=False)
    names = {name for name, parameter in features.named_parameters() if parameter.requires_grad}
    assert names and all(name.startswith('network.aggregator.patch_embed.') for name in names)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda images: images * 255, r'data_preprocessor=dict\(mean=\[0, 0, 0\].*pad_size_divisor=14.*VGGTFeatures'),
        (lambda images: images[..., 1:], 'multiples of the patch size 14.*pad_size_divisor=14'),
        (lambda images: images[:3], '3 images are no scenes of 2 views'),
    ],
)
def test_refused_images(change, message):
    features = build('vggt', num_views=2)
    with pytest.raises(ValueError, match=message):
        features(change(pictures(features, 4)))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(sources=('decoder', 'depth')), '`sources` must be some of'),
        (dict(sources=()), '`sources` must be some of'),
        (dict(mean=MEAN), '`mean` and `std` belong together'),
        (dict(num_views=0), '`num_views` must be at least 1'),
    ],
)
def test_refused_options(options, message):
    with pytest.raises(ValueError, match=message):
        build('vggt', **options)
