"""Shared layers against complex numbers, torch's own attention and the plain order of operations."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pano3d.models.layers import (
    Attention,
    Block,
    DinoEncoder,
    FeatureFusion,
    PyramidFusion,
    ResidualConvUnit,
    frame_rotary_table,
    grid_positions,
    resize,
    rotary_table,
    rotate,
)


def test_rotation_equals_multiplication_by_a_complex_phase():
    x = torch.randn(6, 16, dtype=torch.float64)
    positions = torch.tensor([[0, 0], [1, 0], [0, 1], [3, 2], [7, 7], [2, 9]])
    table = rotary_table(positions, 16)
    halves = []
    for axis, half in enumerate(x.chunk(2, dim=-1)):
        frequency = 100.0 ** (-2 * torch.arange(4, dtype=torch.float64) / 8)
        phase = torch.polar(torch.ones(6, 4, dtype=torch.float64), positions[:, axis, None] * frequency)
        turned = torch.complex(*half.chunk(2, dim=-1)) * phase
        halves += [turned.real, turned.imag]
    torch.testing.assert_close(rotate(x, table), torch.cat(halves, dim=-1), rtol=1e-6, atol=1e-6)


def test_rotated_products_depend_on_the_offset_alone():
    query, key = torch.randn(2, 8, dtype=torch.float64).unbind()
    places = torch.tensor([[[1, 2], [4, 3]], [[6, 12], [9, 13]]])  # the same offset twice
    products = [rotate(query, rotary_table(a, 8)) @ rotate(key, rotary_table(b, 8)) for a, b in places]
    assert products[0].item() == pytest.approx(products[1].item(), rel=1e-5)
    assert products[0].item() != pytest.approx((query @ key).item(), rel=1e-2)


def test_special_tokens_stand_still_and_patches_start_at_one():
    table = frame_rotary_table((2, 3), 2, 8, 100.0, torch.device('cpu'))
    expected = rotary_table(torch.cat([torch.zeros(2, 2, dtype=torch.int64), grid_positions(2, 3) + 1]), 8)
    assert torch.equal(table.cos, expected.cos)
    assert torch.equal(table.sin, expected.sin)
    x = torch.randn(8, 8)
    assert torch.equal(rotate(x, table)[:2], x[:2])
    assert grid_positions(2, 3).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]


def test_rotary_table_refuses_odd_widths():
    with pytest.raises(ValueError, match='multiple of 4, got 6'):
        rotary_table(torch.zeros(1, 2), 6)


def test_attention_equals_torch_multihead_attention():
    ours = Attention(dim=12, num_heads=3)
    theirs = nn.MultiheadAttention(12, 3, batch_first=True)
    theirs.load_state_dict(
        {
            'in_proj_weight': ours.qkv.weight,
            'in_proj_bias': ours.qkv.bias,
            'out_proj.weight': ours.proj.weight,
            'out_proj.bias': ours.proj.bias,
        }
    )
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0])


def test_query_and_key_norm_make_attention_blind_to_their_scale():
    attention = Attention(dim=8, num_heads=2, qk_norm=True)
    x = torch.randn(1, 4, 8)
    before = attention(x)
    with torch.no_grad():
        attention.qkv.weight[:16] *= 50
        attention.qkv.bias[:16] *= 50
    torch.testing.assert_close(attention(x), before, rtol=1e-3, atol=1e-4)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match='3 heads do not divide 8 channels'):
        Attention(dim=8, num_heads=3)


def test_block_without_layer_scale_is_the_plain_residual():
    block = Block(dim=8, num_heads=2, norm_eps=1e-6)
    x = torch.randn(2, 3, 8)
    middle = x + block.attn(block.norm1(x))
    expected = middle + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(middle))))
    torch.testing.assert_close(block(x), expected)
    assert (block.norm1.eps, block.norm2.eps) == (1e-6, 1e-6)


def test_layer_scale_of_zero_makes_a_block_the_identity():
    block = Block(dim=8, num_heads=2, norm_eps=1e-6, layer_scale=0.0)
    x = torch.randn(2, 3, 8)
    assert torch.equal(block(x), x)


def encoder(**changes):
    sizes = {'dim': 8, 'depth': 1, 'num_heads': 2, 'patch_size': 14, 'position_grid': 3}
    return DinoEncoder(**(sizes | changes))


def test_position_table_is_used_as_it_is_at_its_own_size_and_resized_else():
    network = encoder()
    assert torch.equal(network.patch_positions((3, 3)), network.pos_embed[:, 1:])
    with torch.no_grad():  # columns count up: resizing must keep them increasing and rows equal
        network.pos_embed[:, 1:] = torch.arange(3.0).repeat(3)[None, :, None]
    resized = network.patch_positions((4, 6)).unflatten(1, (4, 6))[0, :, :, 0]
    torch.testing.assert_close(resized, resized[:1].expand(4, -1))
    assert (resized[0].diff() > 0).all()
    torch.testing.assert_close(resized[0].mean(), torch.tensor(1.0))


def test_encoder_sees_each_image_alone():
    network = encoder().eval()
    images = torch.randn(3, 3, 28, 42)
    together = network(images)
    assert together.shape == (3, network.prefix_tokens + 6, 8)
    torch.testing.assert_close(together[1:2], network(images[1:2]))


def test_mask_token_is_a_name_but_no_parameter():
    network = encoder()
    assert 'mask_token' in network.state_dict()
    assert 'mask_token' not in dict(network.named_parameters())
    assert 'mask_token' not in encoder(mask_token=False).state_dict()


@pytest.mark.parametrize('rectified_skip', [True, False])
def test_residual_unit_by_its_formula(rectified_skip):
    unit = ResidualConvUnit(features=4, rectified_skip=rectified_skip)
    x = torch.randn(1, 4, 5, 5)
    skip = x.clamp(min=0) if rectified_skip else x
    expected = unit.conv2(unit.conv1(x.clamp(min=0)).clamp(min=0)) + skip
    torch.testing.assert_close(unit(x), expected)


def test_fusion_equals_its_plain_order():
    """Add the refined skip, refine, resize, then convolve."""
    fusion = FeatureFusion(features=4, rectified_skip=True)
    x, skip = torch.randn(2, 1, 4, 5, 6).unbind()
    expected = fusion.out_conv(resize(fusion.resConfUnit2(x + fusion.resConfUnit1(skip)), (9, 12)))
    torch.testing.assert_close(fusion(x, skip=skip, size=(9, 12)), expected, rtol=1e-4, atol=1e-5)


def test_coarsest_fusion_has_no_unit_for_a_skip():
    names = PyramidFusion(channels=(4, 8, 12, 16), features=4, rectified_skip=True).state_dict()
    assert not any(name.startswith('refinenet4.resConfUnit1') for name in names)
    assert any(name.startswith('refinenet3.resConfUnit1') for name in names)


def test_pyramid_ends_at_twice_the_finest_level_for_odd_sizes():
    pyramid = PyramidFusion(channels=(4, 8, 12, 16), features=4, rectified_skip=True)
    sizes = ((20, 28), (10, 14), (5, 7), (3, 4))
    levels = [torch.randn(2, channels, *size) for channels, size in zip((4, 8, 12, 16), sizes, strict=True)]
    assert pyramid(levels).shape == (2, 4, 40, 56)
