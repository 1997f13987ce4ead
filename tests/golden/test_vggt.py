"""VGGT against the official network and the official losses, on tiny instances with random weights.

The same tests run on a small set that is shipped (tests/data/vggt) and on the folder given as --golden-root. All sizes
are read from the files.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from pano3d.functional.geometry import invert_rigid
from pano3d.functional.pose_encoding import decode_cameras, encode_cameras
from pano3d.models import VGGTBackbone, VGGTCriterion
from pano3d.models.criteria.vggt_criterion import normalise_scene
from pano3d.structures import Reconstruction

SHIPPED = Path(__file__).parent.parent / 'data' / 'vggt'
CLOSE = {'rtol': 1e-4, 'atol': 1e-4}
# rounding of sums of up to thousands of pixels; the gradients themselves are about 1e-5
CLOSE_GRADIENT = {'rtol': 1e-4, 'atol': 1e-8}
NOT_OURS = re.compile(r'track.*|vis|conf|patch_start_idx')
TERMS = {
    'camera': 'loss_camera',
    'depth_confidence': 'loss_conf_depth',
    'depth_regression': 'loss_reg_depth',
    'depth_gradient': 'loss_grad_depth',
    'point_confidence': 'loss_conf_point',
    'point_regression': 'loss_reg_point',
    'point_gradient': 'loss_grad_point',
}


def _folders(config: pytest.Config) -> dict[str, Path]:
    root = config.getoption('--golden-root')
    return {'shipped': SHIPPED} | ({} if root is None else {'given': root.resolve() / 'vggt'})


def _cases(folder: Path, file: str, pattern: str) -> list[str]:
    """The case names before the part of a tensor name that `pattern` describes."""
    if not (folder / file).is_file():
        return []
    with safe_open(folder / file, 'pt') as tensors:
        found = (re.fullmatch(rf'(.+)/{pattern}', name) for name in tensors.keys())  # noqa: SIM118 (no mapping)
        return sorted({match[1] for match in found if match})


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folders = _folders(metafunc.config)
    if 'case' in metafunc.fixturenames:
        file, pattern = metafunc.function.cases
        pairs = [(folder, case) for folder in folders.values() for case in _cases(folder, file, pattern)]
        names = [f'vggt-{name}-{case}' for name, folder in folders.items() for case in _cases(folder, file, pattern)]
        metafunc.parametrize(('folder', 'case'), pairs, ids=names)
    elif 'folder' in metafunc.fixturenames:
        metafunc.parametrize('folder', folders.values(), ids=[f'vggt-{name}' for name in folders])


def cases_of(file: str, pattern: str) -> object:
    """Run the test once per case that the file of a folder holds."""

    def mark(function: object) -> object:
        function.cases = (file, pattern)
        return function

    return mark


def read_tensors(folder: Path, file: str) -> dict[str, Tensor]:
    if not (folder / file).is_file():
        pytest.skip(f'{folder} has no {file}')
    return load_file(folder / file)


def read_json(folder: Path, file: str) -> dict:
    if not (folder / file).is_file():
        pytest.skip(f'{folder} has no {file}')
    return json.loads((folder / file).read_text())


def official_state(folder: Path) -> dict[str, Tensor]:
    state = read_tensors(folder, 'small.safetensors')
    return {name: value for name, value in state.items() if not name.startswith('track_head.')}


def build(folder: Path) -> VGGTBackbone:
    """The network of the weights file; only what weights do not show comes from small.json."""
    state = official_state(folder)
    facts = read_json(folder, 'small.json')['constructor']

    def depth(blocks: str) -> int:
        return len({name.split('.')[blocks.count('.') + 1] for name in state if name.startswith(f'{blocks}.')})

    encoder = 'aggregator.patch_embed'
    dim = state[f'{encoder}.cls_token'].shape[-1]
    heads = [name for name in ('camera', 'depth', 'point') if any(key.startswith(f'{name}_head.') for key in state)]
    network = VGGTBackbone(
        patch_size=state[f'{encoder}.patch_embed.proj.weight'].shape[-1],
        position_grid=math.isqrt(state[f'{encoder}.pos_embed'].shape[1] - 1),
        embed_dim=dim,
        mlp_ratio=state['aggregator.frame_blocks.0.mlp.fc1.bias'].numel() / dim,
        register_tokens=state[f'{encoder}.register_tokens'].shape[1],
        encoder_depth=depth(f'{encoder}.blocks'),
        encoder_heads=facts['patch_embed']['num_heads'],
        decoder_depth=depth('aggregator.frame_blocks'),
        decoder_heads=dim // state['aggregator.frame_blocks.0.attn.q_norm.bias'].numel(),
        heads=heads,
        camera_depth=depth('camera_head.trunk'),
        camera_heads=facts['camera_head']['num_heads'],
        camera_iterations=facts['camera_head']['iterations'],
        dense_layers=facts['dpt_heads']['intermediate_layer_idx'],
        dense_channels=[state[f'depth_head.projects.{level}.bias'].numel() for level in range(4)],
        dense_features=state['depth_head.scratch.refinenet1.out_conv.bias'].numel(),
    )
    network.load_state_dict(state)
    return network.eval()


def camera_to_world(world_to_camera: Tensor) -> Tensor:
    """Inverse (..., 4, 4) of poses (..., 3, 4)."""
    bottom = torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(*world_to_camera.shape[:-2], 1, 4)
    return invert_rigid(torch.cat([world_to_camera, bottom], dim=-2))


def network_outputs(network: VGGTBackbone, images: Tensor) -> dict[str, Tensor]:
    """What our network makes of the images, under the names of the files."""
    size = tuple(images.shape[-2:])
    encoder = network.aggregator.patch_embed
    encoded = network.encode(images)
    decoded = network.decode(encoded)
    prediction = network.regress(encoded, decoded, size)
    cameras, intrinsics = decode_cameras(prediction['pose_encodings'][-1], size)
    tokens = encoder((images.flatten(0, 1) - network.image_mean) / network.image_std).unflatten(0, images.shape[:2])
    outputs = {
        'dino/x_norm_clstoken': tokens[:, :, 0],
        'dino/x_norm_regtokens': tokens[:, :, 1 : encoder.prefix_tokens],
        'dino/x_norm_patchtokens': encoded.patches,
        'pose_enc': prediction['pose_encodings'][-1],
        'depth': prediction['depth'][..., None],
        'depth_conf': prediction['depth_confidence'],
        'extrinsics_world_to_camera': cameras[..., :3, :],
        'intrinsics': intrinsics,
        'points_from_depth_batch0': network.reconstruct(prediction).points[0],
    }
    depth = len(network.aggregator.frame_blocks)
    aggregated = network.aggregator(encoded.patches, encoded.grid, keep=range(depth))
    outputs |= {f'aggregated_tokens.{index}': value for index, value in aggregated.items()}
    outputs |= {f'pose_enc_iter{index}': value for index, value in enumerate(prediction['pose_encodings'])}
    if 'point' in network.heads:
        outputs |= {'world_points': prediction['points'], 'world_points_conf': prediction['point_confidence']}
    return outputs


@cases_of('io.safetensors', 'in/images')
def test_network_equals_official(folder: Path, case: str) -> None:
    tensors = read_tensors(folder, 'io.safetensors')
    with torch.no_grad():
        ours = network_outputs(build(folder), tensors[f'{case}/in/images'])
    compared = 0
    for name, expected in tensors.items():
        short = name.removeprefix(f'{case}/out/')
        if short != name and not NOT_OURS.fullmatch(short):
            torch.testing.assert_close(ours[short], expected, **CLOSE, msg=lambda text, name=name: f'{name}: {text}')
            compared += 1
    assert compared >= 8


@cases_of('io.safetensors', 'in/images')
def test_decode_hands_the_heads_what_they_read(folder: Path, case: str) -> None:
    tensors = read_tensors(folder, 'io.safetensors')
    network = build(folder)
    with torch.no_grad():
        decoded = network.decode(network.encode(tensors[f'{case}/in/images']))
    last = tensors[f'{case}/out/aggregated_tokens.{network.last_layer}']
    torch.testing.assert_close(decoded.layers[-1], last, **CLOSE)
    torch.testing.assert_close(decoded.patches, last[:, :, network.aggregator.special_tokens :], **CLOSE)
    for layer, state in zip(network.dense_layers, decoded.layers, strict=False):
        if (name := f'{case}/out/aggregated_tokens.{layer}') in tensors:
            torch.testing.assert_close(state, tensors[name], **CLOSE)


@cases_of('io.safetensors', 'in/tokens')
def test_camera_head_alone_equals_official(folder: Path, case: str) -> None:
    tensors = read_tensors(folder, 'io.safetensors')
    with torch.no_grad():
        encodings = build(folder).camera_head(tensors[f'{case}/in/tokens'][:, :, 0])
    for index, encoding in enumerate(encodings):
        torch.testing.assert_close(encoding, tensors[f'{case}/out/pose_enc_iter{index}'], **CLOSE)


@cases_of('io.safetensors', 'out/pose_enc')
def test_pose_encoding_round_trips(folder: Path, case: str) -> None:
    """Cameras -> encoding where the file gives cameras in, encoding -> cameras everywhere."""
    tensors = read_tensors(folder, 'io.safetensors')
    encoding = tensors[f'{case}/out/pose_enc']
    side = 'in' if f'{case}/in/intrinsics' in tensors else 'out'
    if f'{case}/{side}/intrinsics' not in tensors:
        pytest.skip('a field of view is 0 in this case, so it has no intrinsics')
    poses, intrinsics = tensors[f'{case}/{side}/extrinsics_world_to_camera'], tensors[f'{case}/{side}/intrinsics']
    size = tuple(round(2 * value) for value in intrinsics[0, 0, [1, 0], 2].tolist())
    ours, our_intrinsics = decode_cameras(encoding, size)
    torch.testing.assert_close(ours[..., :3, :], poses, **CLOSE)
    torch.testing.assert_close(our_intrinsics, intrinsics, **CLOSE)
    if side == 'in':
        torch.testing.assert_close(encode_cameras(poses, intrinsics, size), encoding, **CLOSE)


def loss_inputs(folder: Path) -> tuple[dict[str, Tensor], Reconstruction, dict[str, Tensor]]:
    """Predictions that want gradients, the target (normalised already), and all tensors of the file."""
    tensors = read_tensors(folder, 'losses.safetensors')
    names = [f'in/pred_pose_enc_iter{i}' for i in range(len(tensors)) if f'in/pred_pose_enc_iter{i}' in tensors]
    prediction = {
        'pose_encodings': torch.stack([tensors[name] for name in names]),
        'depth': tensors['in/pred_depth'].squeeze(-1),
        'depth_confidence': tensors['in/pred_depth_conf'],
    }
    if 'in/pred_world_points' in tensors:
        prediction |= {
            'points': tensors['in/pred_world_points'],
            'point_confidence': tensors['in/pred_world_points_conf'],
        }
    depth, points = tensors['in/gt_depths'], tensors['in/gt_world_points']
    target = Reconstruction(
        points=points,
        local_points=torch.cat([torch.zeros_like(points[..., :2]), depth[..., None]], dim=-1),
        confidence=torch.ones_like(depth),
        camera_to_world=camera_to_world(tensors['in/gt_extrinsics_world_to_camera']),
        intrinsics=tensors['in/gt_intrinsics'],
        valid=tensors['in/point_masks'],
    )
    return {name: value.clone().requires_grad_() for name, value in prediction.items()}, target, tensors


@cases_of('losses.safetensors', 'grad_pred_depth')
def test_losses_equal_official(folder: Path, case: str) -> None:
    prediction, target, tensors = loss_inputs(folder)
    expected = read_json(folder, 'losses.json')['values'][case]
    with_points = f'{case}/grad_pred_world_points' in tensors
    criterion = VGGTCriterion(point_weight=1.0 if with_points else 0.0)
    terms = criterion.compare(prediction, target)
    for name, value in terms.items():
        weight = criterion.camera_weight if name == 'camera' else 1.0
        assert value.item() == pytest.approx(weight * expected[TERMS[name]], rel=1e-4, abs=1e-6), name
    assert sum(terms.values()).item() == pytest.approx(expected['objective'], rel=1e-4)

    sum(terms.values()).backward()
    gradients = {name: value.grad for name, value in prediction.items() if value.grad is not None}
    ours = {
        'depth': gradients['depth'][..., None],
        'depth_conf': gradients['depth_confidence'],
        **{f'pose_enc_iter{index}': value for index, value in enumerate(gradients['pose_encodings'])},
    }
    if with_points:
        ours |= {'world_points': gradients['points'], 'world_points_conf': gradients['point_confidence']}
    for name in [name for name in tensors if name.startswith(f'{case}/grad_pred_')]:
        found = ours.pop(name.removeprefix(f'{case}/grad_pred_'))
        torch.testing.assert_close(found, tensors[name], **CLOSE_GRADIENT, msg=lambda text, n=name: f'{n}: {text}')
    assert not ours


def test_target_normalisation_equals_official(folder: Path) -> None:
    tensors = read_tensors(folder, 'losses.safetensors')
    if 'normalisation/in/world_points' not in tensors:
        pytest.skip(f'{folder} has no case of the normalisation')
    depth = tensors['normalisation/in/depths']
    given = Reconstruction(
        points=tensors['normalisation/in/world_points'],
        local_points=tensors['normalisation/in/cam_points'],
        confidence=torch.ones_like(depth),
        camera_to_world=camera_to_world(tensors['normalisation/in/extrinsics_world_to_camera']),
        intrinsics=torch.eye(3).expand(*depth.shape[:2], 3, 3),
        valid=tensors['normalisation/in/point_masks'],
    )
    found = normalise_scene(given)
    poses = invert_rigid(found.camera_to_world)[..., :3, :]
    for name, value in {
        'world_points': found.points,
        'cam_points': found.local_points,
        'depths': found.depth,
        'extrinsics_world_to_camera': poses,
    }.items():
        torch.testing.assert_close(value, tensors[f'normalisation/out/{name}'], rtol=1e-5, atol=1e-6)


def full_manifest(folder: Path) -> dict[str, list[int]]:
    """Names and shapes of VGGT-1B without the tracking head."""
    if (folder / 'manifest_full.json').is_file():
        entries = read_json(folder, 'manifest_full.json')['state_dict']
        return {name: entry['shape'] for name, entry in entries.items() if not name.startswith('track_head.')}
    if (folder / 'manifest.json').is_file():
        return {
            name.replace('*', str(index)): entry['shape']
            for name, entry in read_json(folder, 'manifest.json').items()
            for index in range(entry['count'])
        }
    pytest.skip(f'{folder} has no list of the full names')


def test_defaults_have_the_names_and_shapes_of_vggt_1b(folder: Path) -> None:
    expected = full_manifest(folder)
    with torch.device('meta'):
        state = VGGTBackbone().state_dict()
    assert {name: list(value.shape) for name, value in state.items()} == expected


def test_official_file_loads_through_init_cfg(folder: Path) -> None:
    """As the files are released, tracking head and all."""
    network = build(folder)
    network.init_cfg = {'type': 'Pretrained', 'checkpoint': str(folder / 'small.safetensors')}
    for parameter in network.parameters():
        parameter.data.zero_()
    network.init_weights()
    state = official_state(folder)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
