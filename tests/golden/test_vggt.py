"""VGGT against the official network and the official losses, on tiny instances with random weights.

The same tests run on a small set that is shipped (tests/data/vggt) and on the folder given as --golden-root. All sizes
are read from the files. A folder may hold a part of the weights: the stages they serve run from the file's own tokens.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from pano3d.functional.geometry import invert_rigid
from pano3d.functional.pose_encoding import decode_cameras, encode_cameras
from pano3d.models import VGGTBackbone, VGGTCriterion
from pano3d.models.backbones import GeometryPrediction, Tokens
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


@dataclass
class Instance:
    """The network of a weights file.

    Args:
        network: with the weights of the file.
        parts: of 'encoder', 'camera', 'depth', 'point' those whose weights are all there.
        pairs: leading frame and global blocks whose weights are there.
    """

    network: VGGTBackbone
    parts: set[str]
    pairs: int

    @property
    def whole(self) -> bool:
        """Whether all but heads are there, and the camera head and a dense one."""
        return {'encoder', 'camera'} <= self.parts and len(self.parts) > 2 and self.pairs > self.network.last_layer

    def require(self, *parts: str) -> None:
        missing = sorted(set(parts) - self.parts)
        if missing:
            pytest.skip(f'the weights file lacks weights of {missing}')


def build(folder: Path) -> Instance:
    """The network of the weights file; what its weights do not show comes from small.json."""
    state = official_state(folder)
    facts = read_json(folder, 'small.json')['constructor']

    def depth(blocks: str) -> int:
        return len({name.split('.')[blocks.count('.') + 1] for name in state if name.startswith(f'{blocks}.')})

    encoder, dense = (
        'aggregator.patch_embed',
        [name for name in ('depth', 'point') if f'{name}_head.norm.bias' in state],
    )
    dim = state[f'{encoder}.cls_token'].shape[-1] if f'{encoder}.cls_token' in state else facts['embed_dim']
    sizes = {}
    if f'{encoder}.cls_token' in state:
        sizes |= {
            'patch_size': state[f'{encoder}.patch_embed.proj.weight'].shape[-1],
            'position_grid': math.isqrt(state[f'{encoder}.pos_embed'].shape[1] - 1),
            'register_tokens': state[f'{encoder}.register_tokens'].shape[1],
            'encoder_depth': depth(f'{encoder}.blocks'),
            'mlp_ratio': state[f'{encoder}.blocks.0.mlp.fc1.bias'].numel() / dim,
        }
    if 'aggregator.frame_blocks.0.attn.q_norm.bias' in state:
        sizes['decoder_heads'] = dim // state['aggregator.frame_blocks.0.attn.q_norm.bias'].numel()
    if dense:
        head = f'{dense[0]}_head'
        sizes |= {
            'dense_channels': [state[f'{head}.projects.{level}.bias'].numel() for level in range(4)],
            'dense_features': state[f'{head}.scratch.refinenet1.out_conv.bias'].numel(),
        }
    network = VGGTBackbone(
        embed_dim=dim,
        encoder_heads=facts['patch_embed']['num_heads'],
        decoder_depth=max(depth('aggregator.frame_blocks'), 1 + max(facts['dpt_heads']['intermediate_layer_idx'])),
        heads=['camera', *(dense or ['depth'])],
        camera_depth=depth('camera_head.trunk') or facts['camera_head']['trunk_depth'],
        camera_heads=facts['camera_head']['num_heads'],
        camera_iterations=facts['camera_head']['iterations'],
        dense_layers=facts['dpt_heads']['intermediate_layer_idx'],
        **sizes,
    )
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected
    prefixes = {'encoder': f'{encoder}.'} | {name: f'{name}_head.' for name in network.heads}
    parts = {part for part, prefix in prefixes.items() if not any(name.startswith(prefix) for name in missing)}
    absent = [name.split('.')[2] for name in missing if name.startswith(('aggregator.frame_', 'aggregator.global_'))]
    pairs = min(map(int, absent), default=network.last_layer + 1)
    if {'aggregator.camera_token', 'aggregator.register_token'} & set(missing):
        pairs = 0
    assert parts or pairs, f'{folder} holds the weights of no whole stage'
    return Instance(network.eval(), parts, pairs)


def camera_to_world(world_to_camera: Tensor) -> Tensor:
    """Inverse (..., 4, 4) of poses (..., 3, 4)."""
    bottom = torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(*world_to_camera.shape[:-2], 1, 4)
    return invert_rigid(torch.cat([world_to_camera, bottom], dim=-2))


def encoder_outputs(network: VGGTBackbone, images: Tensor) -> dict[str, Tensor]:
    encoder = network.aggregator.patch_embed
    tokens = encoder((images.flatten(0, 1) - network.image_mean) / network.image_std).unflatten(0, images.shape[:2])
    return {
        'dino/x_norm_clstoken': tokens[:, :, 0],
        'dino/x_norm_regtokens': tokens[:, :, 1 : encoder.prefix_tokens],
        'dino/x_norm_patchtokens': network.encode(images).patches,
    }


def dense_outputs(prediction: GeometryPrediction) -> dict[str, Tensor]:
    outputs = {}
    if 'depth' in prediction:
        outputs |= {'depth': prediction['depth'][..., None], 'depth_conf': prediction['depth_confidence']}
    if 'points' in prediction:
        outputs |= {'world_points': prediction['points'], 'world_points_conf': prediction['point_confidence']}
    return outputs


def network_outputs(network: VGGTBackbone, images: Tensor) -> dict[str, Tensor]:
    """What our network makes of the images, under the names of the files."""
    size = tuple(images.shape[-2:])
    encoded = network.encode(images)
    decoded = network.decode(encoded)
    prediction = network.regress(encoded, decoded, size)
    cameras, intrinsics = decode_cameras(prediction['pose_encodings'][-1], size)
    states = network.aggregator(encoded.patches, encoded.grid, keep=range(network.last_layer + 1))
    return {
        **encoder_outputs(network, images),
        **{f'aggregated_tokens.{index}': value for index, value in states.items()},
        **{f'pose_enc_iter{index}': value for index, value in enumerate(prediction['pose_encodings'])},
        **dense_outputs(prediction),
        'pose_enc': prediction['pose_encodings'][-1],
        'extrinsics_world_to_camera': cameras[..., :3, :],
        'intrinsics': intrinsics,
        'points_from_depth_batch0': network.reconstruct(prediction).points[0],
    }


class Case:
    """The tensors of a case; each that is compared is ticked off."""

    def __init__(self, folder: Path, case: str) -> None:
        tensors = read_tensors(folder, 'io.safetensors')
        self.case = case
        self.images = tensors.get(f'{case}/in/images')
        self.outputs = {
            name.removeprefix(f'{case}/out/'): value
            for name, value in tensors.items()
            if name.startswith(f'{case}/out/')
        }
        self.left = {name for name in self.outputs if not NOT_OURS.fullmatch(name)}

    def compare(self, found: dict[str, Tensor]) -> None:
        """Those of the tensors that the file has; at least one."""
        names = found.keys() & self.outputs.keys()
        assert names
        for name in names:
            expected = self.outputs[name]
            torch.testing.assert_close(
                found[name], expected, **CLOSE, msg=lambda text, n=name: f'{self.case}/{n}: {text}'
            )
        self.left -= names

    def need(self, *names: str) -> list[Tensor]:
        missing = [name for name in names if name not in self.outputs]
        if missing:
            pytest.skip(f'{self.case} has no {missing}')
        return [self.outputs[name] for name in names]

    def grid(self, network: VGGTBackbone) -> tuple[int, int]:
        height, width = self.images.shape[-2:]
        return height // network.patch_size, width // network.patch_size


@cases_of('io.safetensors', 'in/images')
@torch.no_grad()
def test_whole_network_equals_official(folder: Path, case: str) -> None:
    """From the images on; every tensor of the case is compared."""
    instance, case = build(folder), Case(folder, case)
    if not instance.whole:
        pytest.skip('the weights file holds a part of the network')
    case.compare(network_outputs(instance.network, case.images))
    assert not case.left


@cases_of('io.safetensors', 'in/images')
@torch.no_grad()
def test_encoder_equals_official(folder: Path, case: str) -> None:
    instance, case = build(folder), Case(folder, case)
    instance.require('encoder')
    case.compare(encoder_outputs(instance.network, case.images))


@cases_of('io.safetensors', 'in/images')
@torch.no_grad()
def test_aggregator_alone_equals_official(folder: Path, case: str) -> None:
    """From the file's patch tokens, as far as the file has its blocks."""
    instance, case = build(folder), Case(folder, case)
    if not instance.pairs:
        pytest.skip('the weights file lacks the first blocks of the aggregator')
    [patches] = case.need('dino/x_norm_patchtokens')
    states = instance.network.aggregator(patches, case.grid(instance.network), keep=range(instance.pairs))
    case.compare({f'aggregated_tokens.{index}': value for index, value in states.items()})


@cases_of('io.safetensors', 'in/images')
@torch.no_grad()
def test_camera_head_alone_equals_official(folder: Path, case: str) -> None:
    """From the file's last tokens."""
    instance, case = build(folder), Case(folder, case)
    instance.require('camera')
    [last] = case.need(f'aggregated_tokens.{instance.network.last_layer}')
    encodings = instance.network.camera_head(last[:, :, 0])
    case.compare({f'pose_enc_iter{index}': value for index, value in enumerate(encodings)})


@cases_of('io.safetensors', 'in/images')
@torch.no_grad()
def test_dense_heads_alone_equal_official(folder: Path, case: str) -> None:
    """From the file's tokens."""
    instance, case = build(folder), Case(folder, case)
    network, heads = instance.network, instance.parts & {'depth', 'point'}
    if not heads:
        pytest.skip('the weights file has no dense head')
    layers = case.need(*(f'aggregated_tokens.{layer}' for layer in (*network.dense_layers, network.last_layer)))
    patches = layers[-1][:, :, network.aggregator.special_tokens :]
    decoded = Tokens(patches, case.grid(network), tuple(layers))
    case.compare(dense_outputs(network.regress(decoded, decoded, tuple(case.images.shape[-2:]))))


@cases_of('io.safetensors', 'in/images')
@torch.no_grad()
def test_decode_hands_the_heads_what_they_read(folder: Path, case: str) -> None:
    instance, case = build(folder), Case(folder, case)
    network = instance.network
    if 'encoder' not in instance.parts or instance.pairs <= network.last_layer:
        pytest.skip('the weights file holds a part of encoder and aggregator')
    decoded = network.decode(network.encode(case.images))
    [last] = case.need(f'aggregated_tokens.{network.last_layer}')
    torch.testing.assert_close(decoded.layers[-1], last, **CLOSE)
    torch.testing.assert_close(decoded.patches, last[:, :, network.aggregator.special_tokens :], **CLOSE)
    for layer, state in zip(network.dense_layers, decoded.layers, strict=False):
        if (name := f'aggregated_tokens.{layer}') in case.outputs:
            torch.testing.assert_close(state, case.outputs[name], **CLOSE)


@cases_of('io.safetensors', 'in/tokens')
@torch.no_grad()
def test_camera_recurrence_equals_official(folder: Path, case: str) -> None:
    """The camera head on tokens of its own, which let fields of view be clipped."""
    instance = build(folder)
    instance.require('camera')
    tokens = read_tensors(folder, 'io.safetensors')
    case = Case(folder, case)
    encodings = instance.network.camera_head(tokens[f'{case.case}/in/tokens'][:, :, 0])
    case.compare({f'pose_enc_iter{index}': value for index, value in enumerate(encodings)})
    assert not case.left


@cases_of('io.safetensors', 'out/pose_enc')
def test_pose_encoding_round_trips(folder: Path, case: str) -> None:
    """Cameras -> encoding where the file gives cameras in, encoding -> cameras everywhere."""
    tensors = read_tensors(folder, 'io.safetensors')
    encoding = tensors[f'{case}/out/pose_enc']
    side = 'in' if f'{case}/in/intrinsics' in tensors else 'out'
    if f'{case}/{side}/intrinsics' not in tensors:
        pytest.skip('this case has no intrinsics, as where a field of view is 0')
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
    instance = build(folder)
    if not instance.whole:
        pytest.skip('the weights file holds a part of the network')
    network = instance.network
    network.init_cfg = {'type': 'Pretrained', 'checkpoint': str(folder / 'small.safetensors')}
    for parameter in network.parameters():
        parameter.data.zero_()
    network.init_weights()
    state = official_state(folder)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
