"""What Pi3X has beyond Pi3: known geometry, metric scale, its layers, and which weights it leaves out."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from pano3d.functional.geometry import invert_rigid
from pano3d.models import GeometryConditions, Pi3XBackbone
from pano3d.models.layers import ConvHead, PoseInjection, ProjectiveAttention, RotaryTable, rotary_table
from pano3d.models.layers.conv_head import image_coordinates

TINY = {
    'position_grid': 3,
    'embed_dim': 32,
    'encoder_depth': 1,
    'encoder_heads': 2,
    'decoder_depth': 4,
    'decoder_heads': 4,
    'layer_scale': 0.5,
    'head_dim': 32,
    'head_depth': 1,
    'head_heads': 2,
    'dense_channels': 24,
    'camera_channels': 16,
    'stage_channels': (16, 16),
    'residual_blocks': 1,
    'metric_dim': 16,
    'metric_depth': 1,
    'metric_heads': 2,
    'metric_channels': 16,
    'pose_layers': (1, 3),
}
HEIGHT, WIDTH = 28, 42
CLOSE = {'rtol': 1e-4, 'atol': 1e-4}


def build(**changes) -> Pi3XBackbone:
    torch.manual_seed(0)
    return Pi3XBackbone(**(TINY | changes))


def random_images(*shape, seed=0):
    return torch.rand(*shape, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed))


def rigid(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(*shape, 3, 3, generator=generator))
    matrix = torch.eye(4).repeat(*shape, 1, 1)
    matrix[..., :3, :3] = rotation * torch.det(rotation).sign()[..., None, None]
    matrix[..., :3, 3] = torch.randn(*shape, 3, generator=generator)
    return matrix


def known(*views, seed=0):
    """Conditions of every kind."""
    generator = torch.Generator().manual_seed(seed)
    intrinsics = torch.tensor([[40.0, 0, 20], [0, 44, 15], [0, 0, 1]]).expand(*views, 3, 3)
    depth = 1 + torch.rand(*views, HEIGHT, WIDTH, generator=generator)
    depth[..., :5, :7] = 0
    return {'depth': depth, 'intrinsics': intrinsics, 'camera_to_world': rigid(*views, seed=seed)}


@torch.no_grad()
def decoded(network, images, **conditions):
    return network.decode(network.encode(images, GeometryConditions(**conditions))).patches


@torch.no_grad()
def test_conditions_reach_the_decoder_and_leave_the_encoder_alone():
    network, images = build(), random_images(1, 2)
    plain = network.encode(images)
    conditions = known(1, 2)
    expected = network.decode(plain).patches
    for name, value in conditions.items():
        encoded = network.encode(images, GeometryConditions(**{name: value}))
        assert torch.equal(encoded.patches, plain.patches)
        assert (network.decode(encoded).patches - expected).abs().max() > 1e-3, name
    torch.testing.assert_close(decoded(network, images), expected)


@torch.no_grad()
def test_masked_views_say_nothing():
    """What a masked view holds changes nothing, and masking every view is the same as knowing nothing."""
    network, images = build(), random_images(1, 3)
    conditions, other = known(1, 3), known(1, 3, seed=7)
    mask, nowhere = torch.tensor([[True, False, True]]), torch.zeros(1, 3, dtype=torch.bool)
    expected = decoded(network, images)
    for name, masked in (('intrinsics', 'ray_views'), ('camera_to_world', 'pose_views'), ('depth', 'depth_views')):
        assert torch.equal(decoded(network, images, **{name: conditions[name], masked: nowhere}), expected)
        found = decoded(network, images, **{name: conditions[name], masked: mask})
        assert not torch.equal(found, expected)
        if name == 'intrinsics':
            mixed = torch.where(mask[..., None, None], conditions[name], other[name] * 2)
            assert torch.equal(decoded(network, images, **{name: mixed, masked: mask}), found)


@torch.no_grad()
def test_a_single_pose_says_nothing():
    network, images, poses = build(), random_images(1, 3), rigid(1, 3)
    mask = torch.tensor([[False, True, False]])
    found = decoded(network, images, camera_to_world=poses, pose_views=mask)
    assert torch.equal(found, decoded(network, images))
    alone = random_images(1, 1)
    assert torch.equal(decoded(network, alone, camera_to_world=rigid(1, 1)), decoded(network, alone))


@torch.no_grad()
def test_world_frame_and_unit_of_the_conditions_do_not_matter():
    network, images, conditions = build(), random_images(1, 3), known(1, 3)
    for names in (('camera_to_world',), ('camera_to_world', 'depth')):
        given = {name: conditions[name] for name in names}
        changed = rigid(seed=11) @ given['camera_to_world']
        changed[..., :3, 3] *= 3
        scaled = {name: 3 * value if name == 'depth' else changed for name, value in given.items()}
        torch.testing.assert_close(decoded(network, images, **scaled), decoded(network, images, **given), **CLOSE)


@torch.no_grad()
def test_intrinsics_equal_the_rays_through_pixel_centres():
    network, images = build(), random_images(1, 1)
    intrinsics = torch.tensor([[40.0, 0, 20], [0, 44, 15], [0, 0, 1]])
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing='ij')
    rays = torch.stack([(x - 20) / 40, (y - 15) / 44, torch.ones(HEIGHT, WIDTH)], dim=-1)
    found = decoded(network, images, rays=F.normalize(rays, dim=-1)[None, None])
    torch.testing.assert_close(found, decoded(network, images, intrinsics=intrinsics[None, None]), **CLOSE)


def test_depth_is_read_relative_to_its_mean_over_what_is_known():
    depth = torch.tensor([[[[2.0, 0.0]], [[float('nan'), 4.0]]]])
    found, mean = GeometryConditions(depth=depth).known_depth()
    assert mean.tolist() == [3]
    torch.testing.assert_close(found, torch.tensor([[[[2 / 3, 0.0]], [[0.0, 4 / 3]]]]))
    found, mean = GeometryConditions(depth=torch.zeros(1, 1, 2, 2)).known_depth()
    assert (mean.tolist(), found.any().item()) == ([1], False)


@pytest.mark.parametrize(('step', 'scale'), [(0.009, 1), (0.011, 1.5 * 0.011), (0.5, 0.75)])
def test_poses_alone_have_the_mean_distance_of_the_other_cameras(step, scale):
    """Cameras at 0, d and 2 d: a mean distance of 1.5 d; all within 2 cm they stay as they are."""
    poses = torch.eye(4).repeat(1, 3, 1, 1)
    poses[0, :, 0, 3] = torch.tensor([0, step, 2 * step])
    world_to_camera, posed = GeometryConditions(camera_to_world=poses).relative_poses()
    assert posed.all()
    torch.testing.assert_close(world_to_camera[0, :, 0, 3], -poses[0, :, 0, 3] / scale)


def test_conditions_that_do_not_fit_are_refused():
    network, images, conditions = build(), random_images(1, 2), known(1, 2)
    with pytest.raises(ValueError, match='`intrinsics` or `rays`, not both'):
        GeometryConditions(intrinsics=conditions['intrinsics'], rays=torch.ones(1, 2, HEIGHT, WIDTH, 3))
    with pytest.raises(ValueError, match='`pose_views` says for which views'):
        GeometryConditions(pose_views=torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r'`depth` must have shape \(1, 2, 28, 42\) beside these images'):
        network.encode(images, GeometryConditions(depth=torch.ones(1, 2, 30, 42)))
    with pytest.raises(ValueError, match=r'`depth_views` must be bool, got torch\.float32'):
        network.encode(images, GeometryConditions(depth=conditions['depth'], depth_views=torch.ones(1, 2)))
    with pytest.raises(ValueError, match='`camera_to_world` must be finite'):
        network.encode(images, GeometryConditions(camera_to_world=conditions['camera_to_world'] * float('nan')))
    with pytest.raises(ValueError, match='set `multimodal=True`'):
        build(multimodal=False).encode(images, GeometryConditions(**conditions))


def test_trained_conditions_learn():
    network = build(frozen=('confidence', 'metric'))
    encoded = network.encode(random_images(2, 3), GeometryConditions(**known(2, 3)))
    network.decode(encoded).patches.square().sum().backward()
    for part in ('depth_encoder', 'depth_emb', 'ray_embed', 'pose_inject_blk'):
        parameters = {name: value for name, value in network.named_parameters() if name.startswith(part)}
        assert parameters
        for name, value in parameters.items():
            assert value.grad is not None, name
            assert value.grad.any(), name


@torch.no_grad()
def test_metric_scale_multiplies_points_and_translations():
    network, images = build(), random_images(2, 3)
    encoded = network.encode(images)
    states = network.decode(encoded)
    before = network.regress(encoded, states, (HEIGHT, WIDTH))
    network.metric_head.bias += torch.tensor(2.0).log()
    after = network.regress(encoded, states, (HEIGHT, WIDTH))
    torch.testing.assert_close(after['local_points'], 2 * before['local_points'])
    factor = torch.ones(4, 4)
    factor[:3, 3] = 2
    torch.testing.assert_close(after['camera_to_world'], factor * before['camera_to_world'])
    torch.testing.assert_close(after['confidence_logits'], before['confidence_logits'])


@torch.no_grad()
def test_depth_is_bounded():
    network = build()
    network.point_head.output_block[1][2].bias.fill_(40)
    encoded = network.encode(random_images(1, 1))
    prediction = network.regress(encoded, network.decode(encoded), (HEIGHT, WIDTH))
    depth = prediction['local_points'][..., 2] / prediction['log_metric'].exp()
    torch.testing.assert_close(depth, torch.full_like(depth, 15).exp(), rtol=1e-4, atol=0)


@torch.no_grad()
def test_projective_attention_equals_its_definition():
    """Per pair of tokens: <R_q E_i^T q, R_k E_j^-1 k>, values likewise, and back by E_i and the inverse turn."""
    torch.manual_seed(1)
    dim, heads, views, length = 32, 2, 3, 4
    attention = ProjectiveAttention(dim=dim, num_heads=heads, qk_norm=True)
    x, cameras = torch.randn(1, views, length, dim), rigid(1, views)
    positions = torch.randint(5, (views * length, 2))
    rope = rotary_table(positions, dim // heads // 2)
    found = attention.attend(x, cameras, rope, None)

    query, key, value = attention.qkv(x.flatten(1, 2)).view(views * length, 3, heads, dim // heads).unbind(1)
    query, key = attention.q_norm(query), attention.k_norm(key)
    quarter = dim // heads // 4

    def matrix(token, kind):
        camera = cameras[0, token // length]
        block = {'query': camera.T, 'key': invert_rigid(camera), 'back': camera}[kind]
        frequency = 100.0 ** (-torch.arange(quarter // 2) / (quarter // 2))
        parts = [block] * (dim // heads // 8)
        for axis in range(2):
            angle = positions[token, axis] * frequency * (-1 if kind == 'back' else 1)
            cos, sin = torch.diag(angle.cos()), torch.diag(angle.sin())
            parts.append(torch.cat([torch.cat([cos, -sin], dim=1), torch.cat([sin, cos], dim=1)]))
        return torch.block_diag(*parts)

    mixed = torch.zeros(views * length, heads, dim // heads)
    for head in range(heads):
        for one in range(views * length):
            asked = matrix(one, 'query') @ query[one, head]
            others = range(views * length)
            products = torch.stack([asked @ matrix(other, 'key') @ key[other, head] for other in others])
            shares = (products / (dim // heads) ** 0.5).softmax(0)
            total = sum(
                share * matrix(other, 'key') @ value[other, head] for share, other in zip(shares, others, strict=True)
            )
            mixed[one, head] = matrix(one, 'back') @ total
    torch.testing.assert_close(found.flatten(1, 2)[0], attention.proj(mixed.flatten(1)), **CLOSE)


@torch.no_grad()
def test_views_without_a_pose_neither_give_nor_take():
    torch.manual_seed(2)
    block = PoseInjection(dim=16, num_heads=2, mlp_ratio=2.0, norm_eps=1e-6, layer_scale=1.0)
    x, cameras = torch.randn(2, 3, 5, 16), rigid(2, 3)
    rope = RotaryTable(torch.ones(15, 4), torch.zeros(15, 4))
    posed = torch.tensor([[True, False, True], [False, False, False]])
    found = block(x, cameras, posed, rope)
    assert not found[~posed].any()
    kept = [0, 2]
    alone = block(x[:1, kept], cameras[:1, kept], posed[:1, kept], RotaryTable(*(entry[:10] for entry in rope)))
    torch.testing.assert_close(found[:1, kept], alone, **CLOSE)


@torch.no_grad()
def test_frames_beyond_one_chunk_come_out_as_alone():
    torch.manual_seed(3)
    head = ConvHead(
        dim=8, stage_channels=(16,), residual_blocks=1, output_features=4, out_channels=(2, 1), patch_size=4
    )
    tokens = torch.randn(11, 6, 8)
    found = head(tokens, (2, 3))
    assert found.shape == (11, 8, 12, 3)
    alone = torch.cat([head(token[None], (2, 3)) for token in tokens])
    torch.testing.assert_close(found, alone, **CLOSE)


def test_coordinates_of_cells_by_hand():
    """An image of 3 : 4 has half sides 0.6 and 0.8; of 2 cells the centres lie at half of them."""
    x, y = image_coordinates((2, 4), 4 / 3, torch.device('cpu'))
    torch.testing.assert_close(x, torch.tensor([[-0.6, -0.2, 0.2, 0.6]]).expand(2, 4))
    torch.testing.assert_close(y, torch.tensor([[-0.3], [0.3]]).expand(2, 4))


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match='multiples of 16'):
        build(stage_channels=(16, 8))
    with pytest.raises(ValueError, match=r'metric head needs channels .* got 16 and 8'):
        build(metric_heads=8)
    with pytest.raises(ValueError, match=r'multiple of 8 \* heads, got 32 and 8'):
        build(decoder_heads=8)
    build(decoder_heads=8, multimodal=False)


def test_weights_that_are_not_built_are_left_out_with_a_message(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr('pano3d.models.backbones.base.print_log', lambda text, **_: said.append(text))
    official = {name: torch.randn_like(value) for name, value in build().state_dict().items()}
    for letter in 'qkv':
        for kind in ('weight', 'bias'):
            block = 'metric_decoder.blocks.0.cross_attn.'
            official[f'{block}{letter}_proj.{kind}'] = official.pop(f'{block}proj{letter}.{kind}')
    save_file(official, tmp_path / 'model.safetensors')
    init_cfg = {'type': 'Pretrained', 'checkpoint': str(tmp_path / 'model.safetensors')}
    for changes, left_out in (
        ({}, []),
        ({'multimodal': False}, ['depth_encoder.*', 'depth_emb*', 'ray_embed.*', 'pose_inject_blk.*']),
        ({'pose_layers': (1, 5)}, ['pose_inject_blk.1.*']),
    ):
        said.clear()
        network = build(init_cfg=init_cfg, **changes)
        network.init_weights()
        assert torch.equal(network.metric_head.weight, official['metric_head.weight'])
        found = [text for text in said if 'left out' in text]
        assert len(found) == len(left_out)
        assert all(name in text for name, text in zip(left_out, found, strict=True))


def test_unbuilt_branches_do_not_change_images_alone():
    full, lean = build(), build(multimodal=False)
    assert not any(isinstance(part, PoseInjection) for part in lean.modules())
    lean.load_state_dict({name: full.state_dict()[name] for name in lean.state_dict()})
    images = random_images(1, 2)
    with torch.no_grad():
        assert torch.equal(lean.decode(lean.encode(images)).patches, decoded(full, images))
