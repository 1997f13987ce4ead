"""Pi3 and Pi3X against the official networks and the official losses, on tiny instances with random weights.

The same tests run on a small set that is shipped (tests/data/pi3) and on the folder given as --golden-root. All sizes
are read from the files. A folder may hold a part of the weights: a stage whose input is not there is left out.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from pano3d.functional.geometry import invert_rigid, transform_points
from pano3d.models import GeometryConditions, Pi3Backbone, Pi3Criterion, Pi3XBackbone
from pano3d.models.backbones import Tokens
from pano3d.models.backbones.pi3_heads import rotation_from_rows
from pano3d.models.backbones.pi3_trunk import ROPE_BASE, Pi3Trunk
from pano3d.models.criteria.pi3_criterion import (
    depth_weights,
    normalise_prediction,
    normalise_target,
    scene_scale,
)
from pano3d.models.layers import frame_rotary_table, rotary_table
from pano3d.structures import Reconstruction

SHIPPED = Path(__file__).parent.parent / 'data' / 'pi3'
CLOSE = {'rtol': 1e-4, 'atol': 1e-4}
# rounding of float32, of gradients up to 1e-3 (points) and 1e-1 (poses)
CLOSE_GRADIENT = {'points': {'rtol': 1e-4, 'atol': 2e-7}, 'poses': {'rtol': 1e-4, 'atol': 5e-6}}
NAMES = {'pi3': 'small', 'pi3x': 'pi3x_small'}
CASES = {'pi3': 'io.safetensors', 'pi3x': 'pi3x_io.safetensors'}
MANIFESTS = {'pi3': 'manifest_full.json', 'pi3x': 'manifest_full_pi3x.json'}
NETWORKS = {'pi3': Pi3Backbone, 'pi3x': Pi3XBackbone}
IMAGES = {'pi3': 'images', 'pi3x': 'imgs'}
PARTS = {
    'encode': ('encoder.', 'depth_encoder.', 'depth_emb', 'ray_embed.'),
    'decode': ('register_token', 'decoder.', 'pose_inject_blk.'),
    'regress': ('point_', 'conf_', 'camera_', 'metric_'),
}
TERMS = {'point': 'local_pts_loss', 'normal': 'normal_loss', 'translation': 'trans_loss', 'rotation': 'rot_loss'}
OTHER_TESTS = {'token_positions'}


def _folders(config: pytest.Config) -> dict[str, Path]:
    root = config.getoption('--golden-root')
    return {'shipped': SHIPPED} | ({} if root is None else {'given': root.resolve() / 'pi3'})


def _cases(folder: Path, file: str, pattern: str) -> list[str]:
    """The case names before the part of a tensor name that `pattern` describes."""
    if not (folder / file).is_file():
        return []
    with safe_open(folder / file, 'pt') as tensors:
        found = (re.fullmatch(rf'([^/]+)/{pattern}', name) for name in tensors.keys())  # noqa: SIM118 (no mapping)
        return sorted({match[1] for match in found if match})


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folders = _folders(metafunc.config)
    fixtures = set(metafunc.fixturenames)
    if {'network_name', 'case'} <= fixtures:
        cases = {
            f'{network}-{name}-{case}': (folder, network, case)
            for network in NETWORKS
            for name, folder in folders.items()
            for case in _cases(folder, CASES[network], f'in/{IMAGES[network]}')
        }
        metafunc.parametrize(('folder', 'network_name', 'case'), cases.values(), ids=cases)
    elif 'network_name' in fixtures:
        pairs = {f'{network}-{name}': (folder, network) for network in NETWORKS for name, folder in folders.items()}
        metafunc.parametrize(('folder', 'network_name'), pairs.values(), ids=pairs)
    elif 'case' in fixtures:
        cases = {
            f'pi3-{name}-{case}': (folder, case)
            for name, folder in folders.items()
            for case in _cases(folder, 'losses.safetensors', 'grad_pred_local_points')
        }
        metafunc.parametrize(('folder', 'case'), cases.values(), ids=cases)
    elif 'folder' in fixtures:
        metafunc.parametrize('folder', folders.values(), ids=[f'pi3-{name}' for name in folders])


def read_tensors(folder: Path, file: str) -> dict[str, Tensor]:
    if not (folder / file).is_file():
        pytest.skip(f'{folder} has no {file}')
    return load_file(folder / file)


def read_json(folder: Path, file: str) -> dict:
    if not (folder / file).is_file():
        pytest.skip(f'{folder} has no {file}')
    return json.loads((folder / file).read_text())


def sizes_of(folder: Path, network_name: str) -> dict:
    """Arguments of the constructor of the tiny network."""
    facts = read_json(folder, f'{NAMES[network_name]}.json')['constructor']
    encoder, decoder, heads = facts['encoder'], facts['decoder'], facts['head_decoders']
    sizes = {
        'patch_size': facts['patch_size'],
        'position_grid': encoder['img_size'] // facts['patch_size'],
        'embed_dim': encoder['embed_dim'],
        'mlp_ratio': decoder.get('mlp_ratio', 4),
        'encoder_depth': encoder['depth'],
        'encoder_heads': encoder['num_heads'],
        'decoder_registers': {**facts, **decoder}['num_register_tokens'],
        'decoder_depth': decoder['depth'],
        'decoder_heads': decoder['num_heads'],
        'head_dim': heads['embed_dim'],
        'head_depth': heads['depth'],
        'head_heads': heads['num_heads'],
        'dense_channels': heads['point_and_conf_out_dim'],
        'camera_channels': heads['camera_out_dim'],
    }
    if network_name == 'pi3':
        return sizes
    metric, dense = facts['metric_decoder'], facts['conv_heads']
    return sizes | {
        'stage_channels': dense['dim_upsample'],
        'residual_blocks': dense['num_res_blocks'],
        'output_features': dense['last_conv_channels'],
        'metric_dim': metric['embed_dim'],
        'metric_depth': metric['depth'],
        'metric_heads': metric['num_heads'],
        'metric_channels': metric['out_dim'],
    }


def strip_unused(network: Pi3Trunk, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.startswith(tuple(network.unused_weights()))}


def build(folder: Path, network_name: str, **changes: object) -> tuple[Pi3Trunk, set[str]]:
    """The network of the weights file, and the stages whose weights the file holds."""
    state = read_tensors(folder, f'{NAMES[network_name]}.safetensors')
    network = NETWORKS[network_name](**sizes_of(folder, network_name), **changes)
    state = strip_unused(network, network.translate_official(state, folder))
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected
    stages = {stage for stage, prefixes in PARTS.items() if not any(name.startswith(prefixes) for name in missing)}
    assert stages, f'{folder} holds the weights of no whole stage'
    return network.eval(), stages


def case_of(folder: Path, network_name: str, case: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs and outputs of a case."""
    tensors = read_tensors(folder, CASES[network_name])
    return tuple(
        {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        for prefix in (f'{case}/in/', f'{case}/out/')
    )


def conditions_of(given: dict[str, Tensor]) -> dict[str, GeometryConditions]:
    """What is known beside the images, as an argument of `encode`; none where the file has nothing."""
    names = {
        'depths': 'depth',
        'intrinsics': 'intrinsics',
        'rays': 'rays',
        'poses': 'camera_to_world',
        'mask_add_depth': 'depth_views',
        'mask_add_ray': 'ray_views',
        'mask_add_pose': 'pose_views',
    }
    known = {names[name]: value.clone() for name, value in given.items() if name in names}
    if 'intrinsics' in known:  # the official pixel centres are at half integers
        known['intrinsics'][..., :2, 2] -= 0.5
    return {'conditions': GeometryConditions(**known)} if known else {}


def encoder_outputs(network: Pi3Trunk, given: dict[str, Tensor]) -> tuple[Tokens, dict[str, Tensor]]:
    images = next(given[name] for name in IMAGES.values() if name in given)
    encoded = network.encode(images, **conditions_of(given))
    tokens = network.encoder((images.flatten(0, 1) - network.image_mean) / network.image_std)
    return encoded, {
        'encoder/x_norm_clstoken': tokens[:, 0].unflatten(0, images.shape[:2]),
        'encoder/x_norm_patchtokens': encoded.patches,
    }


def decoder_outputs(network: Pi3Trunk, encoded: Tokens) -> tuple[Tokens, dict[str, Tensor]]:
    decoded = network.decode(encoded)
    outputs = {f'decoder_block{index}': state for index, state in enumerate(network.decoder_states(encoded))}
    return decoded, outputs | {'decoder_tokens_last_two': decoded.layers[0]}


def head_outputs(network: Pi3Trunk, decoded: Tokens) -> dict[str, Tensor]:
    size = tuple(side * network.patch_size for side in decoded.grid)
    prediction = network.regress(decoded, decoded, size)
    local_points, poses = prediction['local_points'], prediction['camera_to_world']
    outputs = {
        'local_points': local_points,
        'conf': prediction['confidence_logits'][..., None],
        'camera_poses': poses,
        'points': transform_points(poses[..., None, :, :], local_points),
        'rays': F.normalize(local_points, dim=-1),
    }
    tokens = decoded.layers[0]
    rope = frame_rotary_table(decoded.grid, network.decoder_registers, network.head_head_dim, ROPE_BASE, tokens.device)
    for name in ('point', 'conf', 'camera'):
        states = network.get_submodule(f'{name}_decoder')(tokens.flatten(0, 1), rope)
        outputs[f'{name}_decoder_tokens'] = states.unflatten(0, tokens.shape[:2])
    if 'log_metric' in prediction:
        outputs |= {'log_metric': prediction['log_metric'], 'metric': prediction['log_metric'].exp()}
    return outputs


def given_decoder_tokens(network: Pi3Trunk, official: dict[str, Tensor], views: tuple[int, int], grid) -> Tokens:
    last = official['decoder_tokens_last_two'].reshape(*views, -1, network.decoder_dim)
    return Tokens(last[:, :, network.decoder_registers :], grid, (last,))


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        if name in found:
            ours = found[name].reshape(value.shape)
            torch.testing.assert_close(ours, value, **CLOSE, msg=lambda text, name=name: f'{name}: {text}')


@torch.no_grad()
def test_network_equals_official(folder: Path, network_name: str, case: str) -> None:
    """From the images to the cameras."""
    network, stages = build(folder, network_name)
    if stages != set(PARTS):
        pytest.skip(f'{folder} has the weights of {sorted(stages)} only')
    given, official = case_of(folder, network_name, case)
    encoded, outputs = encoder_outputs(network, given)
    decoded, states = decoder_outputs(network, encoded)
    outputs |= states | head_outputs(network, decoded)
    assert_close(outputs, official)
    assert official.keys() - OTHER_TESTS <= outputs.keys()


@torch.no_grad()
def test_each_stage_equals_official(folder: Path, network_name: str, case: str) -> None:
    """From the official input of the stage."""
    network, stages = build(folder, network_name)
    given, official = case_of(folder, network_name, case)
    images = given[IMAGES[network_name]]
    grid = images.shape[-2] // network.patch_size, images.shape[-1] // network.patch_size
    compared = set()
    if 'encode' in stages and 'encoder/x_norm_patchtokens' in official:
        outputs = encoder_outputs(network, given)[1]
        assert_close(outputs, official)
        compared |= outputs.keys()
    if 'decode' in stages and 'encoder/x_norm_patchtokens' in official and not conditions_of(given):
        outputs = decoder_outputs(network, Tokens(official['encoder/x_norm_patchtokens'], grid))[1]
        assert_close(outputs, official)
        compared |= outputs.keys()
    if 'regress' in stages and 'decoder_tokens_last_two' in official:
        outputs = head_outputs(network, given_decoder_tokens(network, official, images.shape[:2], grid))
        assert_close(outputs, official)
        compared |= outputs.keys()
    assert compared & official.keys()


def test_rotary_positions_equal_official(folder: Path, network_name: str, case: str) -> None:
    given, official = case_of(folder, network_name, case)
    if 'token_positions' not in official:
        pytest.skip('the case has no positions')
    sizes = sizes_of(folder, network_name)
    head_dim = sizes['embed_dim'] // sizes['decoder_heads']
    height, width = (side // sizes['patch_size'] for side in given[IMAGES[network_name]].shape[-2:])
    registers = sizes['decoder_registers']
    ours = frame_rotary_table((height, width), registers, head_dim, ROPE_BASE, torch.device('cpu'))
    for positions in official['token_positions'].flatten(0, 1):
        for found, expected in zip(ours, rotary_table(positions, head_dim, base=ROPE_BASE), strict=True):
            assert torch.equal(found, expected)


def test_rotations_equal_official(folder: Path) -> None:
    tensors = read_tensors(folder, CASES['pi3'])
    cases = _cases(folder, CASES['pi3'], 'in/nine')
    if not cases:
        pytest.skip(f'{folder} has no case of rotations alone')
    for case in cases:
        found = rotation_from_rows(tensors[f'{case}/in/nine'])
        torch.testing.assert_close(found, tensors[f'{case}/out/rotation'], **CLOSE)


def test_every_case_of_the_file_is_compared(folder: Path, network_name: str) -> None:
    tensors = read_tensors(folder, CASES[network_name])
    inputs = f'in/{IMAGES[network_name]}', 'in/nine'
    known = {case for pattern in inputs for case in _cases(folder, CASES[network_name], pattern)}
    assert {name.partition('/')[0] for name in tensors} <= known


@torch.no_grad()
def test_permuting_the_views_permutes_the_outputs(folder: Path) -> None:
    network, stages = build(folder, 'pi3')
    if stages != set(PARTS):
        pytest.skip(f'{folder} has the weights of {sorted(stages)} only')
    tensors = read_tensors(folder, CASES['pi3'])
    for case in _cases(folder, CASES['pi3'], 'in/images'):
        encoded = network.encode(tensors[f'{case}/in/images'].flip(1))
        prediction = network.regress(encoded, network.decode(encoded), tensors[f'{case}/in/images'].shape[-2:])
        ours = {'local_points': prediction['local_points'], 'camera_poses': prediction['camera_to_world']}
        assert_close({name: value.flip(1) for name, value in ours.items()}, case_of(folder, 'pi3', case)[1])


@torch.no_grad()
def test_images_alone_need_no_multimodal_branch(folder: Path) -> None:
    network, stages = build(folder, 'pi3x', multimodal=False)
    if stages != set(PARTS):
        pytest.skip(f'{folder} has the weights of {sorted(stages)} only')
    for case in _cases(folder, CASES['pi3x'], 'in/imgs'):
        given, official = case_of(folder, 'pi3x', case)
        if not conditions_of(given):
            encoded, outputs = encoder_outputs(network, given)
            assert_close(outputs | head_outputs(network, network.decode(encoded)), official)


def loss_inputs(folder: Path) -> tuple[dict[str, Tensor], Reconstruction, dict[str, Tensor]]:
    """Predictions that want gradients, the target, and all tensors of the file."""
    tensors = read_tensors(folder, 'losses.safetensors')
    points, poses, valid = tensors['in/gt_pts3d_world'], tensors['in/gt_camera_pose_c2w'], tensors['in/valid_mask']
    target = Reconstruction(
        points=points,
        local_points=transform_points(invert_rigid(poses)[..., None, :, :], points),
        confidence=torch.ones(valid.shape),
        camera_to_world=poses,
        intrinsics=torch.eye(3).expand(*valid.shape[:2], 3, 3),
        valid=valid,
    )
    prediction = {
        'local_points': tensors['in/pred_local_points'],
        'camera_to_world': tensors['in/pred_camera_poses_c2w'],
        'confidence_logits': torch.zeros(valid.shape),
    }
    return {name: value.clone().requires_grad_() for name, value in prediction.items()}, target, tensors


def test_losses_equal_official(folder: Path, case: str) -> None:
    prediction, target, tensors = loss_inputs(folder)
    expected = read_json(folder, 'losses.json')['values'][case]
    single = re.search(r'only_batch(\d+)', case)
    fine = None if single is None else torch.arange(len(target.valid)) == int(single[1])
    criterion = Pi3Criterion()
    terms = criterion.compare(prediction, target, fine_surfaces=fine)
    camera = criterion.camera_weight
    weights = {'point': 1, 'normal': 1, 'translation': camera * criterion.translation_weight, 'rotation': camera}
    for name, official in TERMS.items():
        assert terms[name].item() == pytest.approx(weights[name] * expected[official], rel=1e-4, abs=1e-8), name
    total = sum(terms.values())
    torch.testing.assert_close(total, tensors[f'{case}/value'].reshape(()), rtol=1e-4, atol=1e-6)

    total.backward()
    for kind, name, ours in (
        ('points', 'grad_pred_local_points', prediction['local_points'].grad),
        ('poses', 'grad_pred_camera_poses_c2w', prediction['camera_to_world'].grad),
    ):
        torch.testing.assert_close(ours, tensors[f'{case}/{name}'], **CLOSE_GRADIENT[kind])
    assert not prediction['confidence_logits'].grad.any()


def test_loss_preparation_equals_official(folder: Path) -> None:
    prediction, target, tensors = loss_inputs(folder)
    if not any(name.startswith('prepared/') for name in tensors):
        pytest.skip(f'{folder} has no tensors of the preparation')
    truth = normalise_target(target)
    points, poses = normalise_prediction(prediction['local_points'], prediction['camera_to_world'], truth.valid)
    for name, value in {
        'gt_local_points': truth.local_points,
        'gt_camera_poses': truth.camera_to_world,
        'pred_local_points_normalised': points,
        'pred_camera_poses_normalised': poses,
    }.items():
        torch.testing.assert_close(value.detach(), tensors[f'prepared/{name}'], rtol=1e-5, atol=2e-6)
    for case in _cases(folder, 'losses.safetensors', 'scale'):
        scale = scene_scale(points, truth, depth_weights(truth))
        torch.testing.assert_close(scale, tensors[f'{case}/scale'], rtol=1e-5, atol=1e-6)
        assert not scale.requires_grad


def test_defaults_have_the_official_names_and_shapes(folder: Path, network_name: str) -> None:
    manifest = read_json(folder, MANIFESTS[network_name])['state_dict']
    with torch.device('meta'):
        network = NETWORKS[network_name]()
        official = {name: torch.empty(entry['shape']) for name, entry in manifest.items()}
    expected = network.translate_official(official, folder)
    assert len(expected) == len(manifest)
    assert {name: value.shape for name, value in network.state_dict().items()} == {
        name: value.shape for name, value in expected.items()
    }


@pytest.mark.parametrize('form', ['safetensors', 'trainer'])
def test_official_file_loads_through_init_cfg(folder: Path, network_name: str, form: str, tmp_path: Path) -> None:
    network, stages = build(folder, network_name)
    if stages != set(PARTS):
        pytest.skip(f'{folder} has the weights of {sorted(stages)} only')
    path = folder / f'{NAMES[network_name]}.safetensors'
    if form == 'trainer':
        torch.save({'model': load_file(path), 'epoch': 3}, tmp_path / 'checkpoint.pth')
        path = tmp_path / 'checkpoint.pth'
    loaded = NETWORKS[network_name](
        **sizes_of(folder, network_name), init_cfg={'type': 'Pretrained', 'checkpoint': str(path)}
    )
    loaded.init_weights()
    state = network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
