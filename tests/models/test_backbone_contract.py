"""What every backbone owes to the rest of the package, whichever network it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope
from torch import Tensor

from pano3d.engine import load_config
from pano3d.models.backbones import Backbone
from pano3d.registry import MODELS
from pano3d.structures import Reconstruction

CONFIGS = Path(__file__).parents[2] / 'configs'
VIEWS = 3
# sizes that the tiny configs leave out
PI3X_HEADS = dict(stage_channels=(32, 32, 32), metric_dim=32, metric_depth=1, metric_heads=2, metric_channels=32)
VARIANTS = {
    'vggt': ('vggt', {}),
    'vggt-points': ('vggt', dict(heads=('camera', 'point', 'depth'), points_from='point')),
    'pi3': ('pi3', {}),
    'pi3x': ('pi3', dict(type='Pi3XBackbone', multimodal=False, frozen=(), **PI3X_HEADS)),
    'must3r': ('must3r', {}),
    'dust3r': ('dust3r', {}),
    'dust3r-linear': ('dust3r', dict(head='linear')),
    'mast3r': ('dust3r', dict(type='MASt3RBackbone')),
}


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    return request.param


def build(variant: str, **changes: object) -> Backbone:
    base, own = VARIANTS[variant]
    config = load_config(CONFIGS / f'pano3d_{base}_demo.py').model.backbone
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('pano3d'):
        return MODELS.build({**config, **own, **changes})


def criterion_of(variant: str) -> torch.nn.Module:
    base, _ = VARIANTS[variant]
    config = dict(load_config(CONFIGS / f'pano3d_{base}_demo.py').model.joint_loss.geometry)
    if variant == 'vggt-points':
        config['point_weight'] = 1.0
    with DefaultScope.overwrite_default_scope('pano3d'):
        return MODELS.build(config)


def pictures(backbone: Backbone, *, views: int = VIEWS) -> Tensor:
    height, width = 3 * backbone.patch_size, 4 * backbone.patch_size
    return torch.rand(2, views, 3, height, width, generator=torch.Generator().manual_seed(1))


def scene(images: Tensor) -> Reconstruction:
    """A made-up room seen by cameras side by side."""
    batch, views, _, height, width = images.shape
    generator = torch.Generator().manual_seed(2)
    depth = 2 + torch.rand(batch, views, height, width, generator=generator)
    depth[:, :, 0] = 0  # no measurement in the first row
    intrinsics = torch.tensor([[60.0, 0, width / 2], [0, 60, height / 2], [0, 0, 1]]).expand(batch, views, 3, 3)
    poses = torch.eye(4).repeat(batch, views, 1, 1)
    poses[:, :, 0, 3] = 0.2 * torch.arange(views)
    return Reconstruction.from_depth(depth, intrinsics, poses)


def run(backbone: Backbone, images: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    encoded = backbone.encode(images)
    decoded = backbone.decode(encoded)
    return encoded.patches, decoded.patches, backbone.regress(encoded, decoded, tuple(images.shape[-2:]))


def test_features_and_geometry_have_the_promised_shapes_and_meanings(variant):
    backbone = build(variant).eval()
    images = pictures(backbone)
    with torch.no_grad():
        encoded, decoded, prediction = run(backbone, images)
        found = backbone.reconstruct(prediction)  # checks its shapes itself
    assert encoded.shape == (2, VIEWS, 12, backbone.encoder_dim)
    assert decoded.shape == (2, VIEWS, 12, backbone.decoder_dim)
    assert found.valid.shape == (2, VIEWS, *images.shape[-2:])
    assert found.valid.all()
    rotation = found.camera_to_world[..., :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand_as(rotation), rtol=0, atol=1e-4)
    assert (torch.linalg.det(rotation) > 0).all()
    assert (found.camera_to_world[..., 3, :] == torch.tensor([0.0, 0, 0, 1])).all()
    height, width = images.shape[-2:]
    assert (found.intrinsics[..., 0, 0] > 0).all()
    torch.testing.assert_close(found.intrinsics[..., :2, 2], torch.tensor([width / 2, height / 2]).expand(2, VIEWS, 2))
    assert (found.confidence > (0 if 'pi3' in variant else 1)).all()


def test_scenes_of_a_batch_do_not_touch_each_other(variant):
    backbone = build(variant).eval()
    images = pictures(backbone)
    with torch.no_grad():
        together, alone = run(backbone, images), run(backbone, images[1:])
    for both, one in zip(together[:2], alone[:2], strict=True):
        torch.testing.assert_close(both[1:], one, rtol=1e-4, atol=1e-4)
    geometry = [backbone.reconstruct(prediction) for prediction in (together[2], alone[2])]
    torch.testing.assert_close(geometry[0].points[1:], geometry[1].points, rtol=1e-3, atol=1e-3)


def test_views_see_each_other(variant):
    backbone = build(variant).eval()
    images = pictures(backbone)
    changed = images.clone()
    changed[:, 0] = 1 - changed[:, 0]
    with torch.no_grad():
        before, after = run(backbone, images), run(backbone, changed)
    torch.testing.assert_close(before[0][:, 1:], after[0][:, 1:])  # E is monocular
    assert (before[1][:, 1:] - after[1][:, 1:]).abs().amax(dim=(-2, -1)).min() > 1e-4  # F is not


@pytest.mark.parametrize('checkpointed', [False, True], ids=['stored', 'recomputed'])
def test_the_loss_reaches_every_trained_parameter(variant, checkpointed):
    """Distributed training stops at a parameter without a gradient."""
    backbone = build(variant, checkpoint_activations=checkpointed).train()
    images = pictures(backbone)
    terms = criterion_of(variant)(run(backbone, images)[2], scene(images))
    sum(terms.values()).backward()
    assert all(torch.isfinite(value) for value in terms.values())
    without = [n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert all(p.grad.isfinite().all() for p in backbone.parameters() if p.grad is not None)


def test_recomputing_activations_changes_no_gradient(variant):
    gradients = []
    for checkpointed in (False, True):
        backbone = build(variant, checkpoint_activations=checkpointed).train()
        images = pictures(backbone)
        torch.manual_seed(3)  # MUSt3R draws its keyframes
        sum(criterion_of(variant)(run(backbone, images)[2], scene(images)).values()).backward()
        gradients.append({name: p.grad for name, p in backbone.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_a_scene_without_any_depth_costs_nothing_and_breaks_nothing(variant):
    backbone = build(variant).train()
    images = pictures(backbone)
    known = scene(images)
    empty = Reconstruction.from_depth(torch.zeros_like(known.depth), known.intrinsics, known.camera_to_world)
    terms = criterion_of(variant)(run(backbone, images)[2], empty)
    sum(terms.values()).backward()
    assert all(torch.isfinite(value) for value in terms.values())
    assert all(p.grad.isfinite().all() for p in backbone.parameters() if p.grad is not None)


def test_heads_stay_in_full_precision_under_autocast(variant):
    backbone = build(variant).eval()
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        prediction = run(backbone, pictures(backbone))[2]
    assert {value.dtype for value in prediction.values() if value.is_floating_point()} == {torch.float32}
    assert all(value.isfinite().all() for value in prediction.values())


def test_images_that_cannot_be_used_are_refused(variant):
    backbone = build(variant).eval()
    images = pictures(backbone)
    broken = images.clone()
    broken[1, 2, 0, 5, 5] = float('nan')
    with pytest.raises(ValueError, match='view 2 of scene 1 has NaN'):
        backbone.encode(broken)
    with pytest.raises(ValueError, match=r'must be RGB in \[0, 1\], got values .* divide 8-bit images by 255'):
        backbone.encode(images * 255)
    with pytest.raises(ValueError, match=f'multiples of the patch size {backbone.patch_size}'):
        backbone.encode(images[..., 1:, :])
    with pytest.raises(ValueError, match=r'must have shape \(B, V, 3, H, W\)'):
        backbone.encode(images[0])
    with pytest.raises(ValueError, match='V >= 1'):
        backbone.encode(images[:, :0])
    with pytest.raises(TypeError, match='views of several sizes'):
        backbone.encode([images[:, 0], images[:, 1, :, :, : 2 * backbone.patch_size]])


def test_one_view_alone(variant):
    backbone = build(variant).eval()
    images = pictures(backbone, views=1)
    encoded = backbone.encode(images)
    if VARIANTS[variant][0] == 'dust3r':
        with pytest.raises(ValueError, match='two views'):
            backbone.decode(encoded)
        return
    with torch.no_grad():
        prediction = backbone.regress(encoded, backbone.decode(encoded), tuple(images.shape[-2:]))
        assert backbone.reconstruct(prediction).points.shape == (2, 1, *images.shape[-2:], 3)


def test_encoder_modules_are_what_makes_e(variant):
    backbone = build(variant)
    for name in backbone.encoder_modules():
        backbone.get_submodule(name).requires_grad_(False)
    assert not backbone.encode(pictures(backbone)).patches.requires_grad
    assert any(parameter.requires_grad for parameter in backbone.parameters())
