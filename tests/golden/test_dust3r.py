"""DUSt3R against the official network and the official losses, on tiny instances with random weights.

The same tests run on a small set that is shipped (tests/data/dust3r) and on the folder given as --golden-root. All
sizes are read from the files. A folder may hold a part of the weights: the stages they serve run from the file's own
tokens.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from pano3d.functional.point_regression import align_medians, normalise_lengths, point_distance
from pano3d.models import DUSt3RBackbone, DUSt3RCriterion
from pano3d.models.backbones import Tokens
from pano3d.models.criteria.dust3r_criterion import pair_targets
from pano3d.models.layers import grid_positions
from pano3d.structures import Reconstruction

SHIPPED = Path(__file__).parent.parent / 'data' / 'dust3r'
CLOSE = {'rtol': 1e-4, 'atol': 1e-4}
# the gradients themselves are about 1e-4
CLOSE_GRADIENT = {'rtol': 1e-4, 'atol': 1e-8}
LINEAR_FILE = 'small_linear_head.safetensors'
SIDES = ('view1', 'view2')
POINTS = {'view1': 'pts3d_view1', 'view2': 'pts3d_in_other_view_view2'}
PARTS = {
    'encode': ('encoder.',),
    'decode': ('decoder_embed.', 'dec_blocks', 'dec_norm.'),
    'regress': ('downstream_head1.', 'downstream_head2.'),
}


def _folders(config: pytest.Config) -> dict[str, Path]:
    root = config.getoption('--golden-root')
    return {'shipped': SHIPPED} | ({} if root is None else {'given': root.resolve() / 'dust3r'})


def _cases(folder: Path) -> list[str]:
    if not (folder / 'io.safetensors').is_file():
        return []
    with safe_open(folder / 'io.safetensors', 'pt') as tensors:
        return sorted({name.partition('/')[0] for name in tensors.keys()})  # noqa: SIM118 (no mapping)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folders = _folders(metafunc.config)
    if 'case' in metafunc.fixturenames:
        pairs = [(folder, case) for folder in folders.values() for case in _cases(folder)]
        names = [f'dust3r-{name}-{case}' for name, folder in folders.items() for case in _cases(folder)]
        metafunc.parametrize(('folder', 'case'), pairs, ids=names)
    elif 'folder' in metafunc.fixturenames:
        metafunc.parametrize('folder', folders.values(), ids=[f'dust3r-{name}' for name in folders])


def read_tensors(folder: Path, file: str) -> dict[str, Tensor]:
    if not (folder / file).is_file():
        pytest.skip(f'{folder} has no {file}')
    return load_file(folder / file)


def read_json(folder: Path, file: str) -> dict:
    if not (folder / file).is_file():
        pytest.skip(f'{folder} has no {file}')
    return json.loads((folder / file).read_text())


def build(folder: Path, case: str = '') -> tuple[DUSt3RBackbone, set[str]]:
    """The network of the weights file, and the stages whose weights the file holds."""
    state = read_tensors(folder, 'small.safetensors')
    if case.startswith('linear') and 'downstream_head1.proj.weight' not in state:
        state = {name: value for name, value in state.items() if not name.startswith('downstream_head')}
        state |= load_file(folder / LINEAR_FILE) if (folder / LINEAR_FILE).is_file() else {}
    facts = read_json(folder, 'small.json')
    sizes = facts['constructor']
    if case.startswith('linear') or 'downstream_head1.proj.weight' in state:
        pyramid = {'head': 'linear'}
    else:
        dense = facts['dpt_head']
        pyramid = {
            'dense_features': dense['feature_dim'],
            'dense_hidden': dense['last_dim'],
            'dense_channels': dense['layer_dims'],
        }
    network = DUSt3RBackbone(
        patch_size=sizes['patch_size'],
        encoder_dim=sizes['enc_embed_dim'],
        encoder_depth=sizes['enc_depth'],
        encoder_heads=sizes['enc_num_heads'],
        decoder_dim=sizes['dec_embed_dim'],
        decoder_depth=sizes['dec_depth'],
        decoder_heads=sizes['dec_num_heads'],
        mlp_ratio=sizes['mlp_ratio'],
        **pyramid,
    )
    state = strip_unused(network, network.translate_official(state, folder))
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected
    stages = {stage for stage, prefixes in PARTS.items() if not any(name.startswith(prefixes) for name in missing)}
    assert stages, f'{folder} holds the weights of no whole stage'
    return network.eval(), stages


def strip_unused(network: DUSt3RBackbone, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.startswith(tuple(network.unused_weights()))}


class Case:
    """The tensors of a case; portrait images, which training stores transposed as landscape, are put upright."""

    def __init__(self, folder: Path, case: str) -> None:
        every = read_tensors(folder, 'io.safetensors')
        self.tensors = {name.partition('/')[2]: value for name, value in every.items() if name.startswith(f'{case}/')}
        self.case = case
        self.network, self.stages = build(folder, case)
        self.shapes = {side: self.tensors[f'in/true_shape_{side}'].tolist() for side in SIDES}
        stored = {side: list(self.tensors[f'out/conf_{side}'].shape[1:]) for side in SIDES}
        self.turned = {side: [shape != stored[side] for shape in self.shapes[side]] for side in SIDES}
        self.compared: set[str] = set()

    def groups(self) -> list[list[int]]:
        """Elements of the batch whose images have the same true shapes."""
        found: dict[str, list[int]] = {}
        for index, shapes in enumerate(zip(*self.shapes.values(), strict=True)):
            found.setdefault(str(shapes), []).append(index)
        return list(found.values())

    def image(self, side: str, rows: list[int]) -> Tensor:
        """(B, 1, 3, H, W), RGB in [0, 1]."""
        images = self.tensors[f'in/img_{side}'][rows]
        images = images.transpose(-1, -2) if self.turned[side][rows[0]] else images
        return (images[:, None] + 1) / 2

    def grid(self, side: str, rows: list[int]) -> tuple[int, int]:
        height, width = self.shapes[side][rows[0]]
        return height // self.network.patch_size, width // self.network.patch_size

    def given(self, name: str, side: str, rows: list[int], layers: tuple[Tensor, ...] = ()) -> Tokens:
        return Tokens(self.tensors[f'out/{name}'][rows][:, None], self.grid(side, rows), layers)

    def states(self, side: str, rows: list[int]) -> tuple[Tensor, ...]:
        return tuple(self.tensors[f'out/dec_tokens_{side}.{k}'][rows][:, None] for k in self.network.read_layers)

    def compare(self, name: str, side: str, rows: list[int], found: Tensor) -> None:
        expected = self.tensors[f'out/{name}'][rows]
        if self.turned[side][rows[0]] and name.startswith(('pts3d', 'conf')):
            expected = expected.transpose(1, 2)
        torch.testing.assert_close(found, expected, **CLOSE, msg=lambda text: f'{self.case}/{name} {rows}: {text}')
        self.compared.add(f'out/{name}')

    def require(self, stage: str) -> None:
        if stage not in self.stages:
            pytest.skip(f'the weights file lacks weights of the stage {stage}')


def compare_encoder(case: Case, rows: list[int]) -> list[Tokens]:
    encoded = [case.network.encode(case.image(side, rows)) for side in SIDES]
    for side, tokens in zip(SIDES, encoded, strict=True):
        case.compare(f'enc_tokens_{side}', side, rows, tokens.patches[:, 0])
        case.compare(f'pos_{side}', side, rows, grid_positions(*tokens.grid).expand(len(rows), -1, -1))
    return encoded


def compare_decoder(case: Case, rows: list[int], encoded: list[Tokens]) -> list[Tokens]:
    network = case.network
    every = range(1, len(network.dec_blocks) + 1)
    for side, tokens in zip(SIDES, network.decode_pairs(*encoded, keep=every), strict=True):
        for layer, states in zip(every, tokens.layers, strict=True):
            case.compare(f'dec_tokens_{side}.{layer}', side, rows, states[:, 0])
        assert torch.equal(tokens.patches, tokens.layers[-1])
    return network.decode_pairs(*encoded)


def compare_heads(case: Case, rows: list[int], encoded: list[Tokens], decoded: list[Tokens]) -> None:
    for side, (points, confidence) in zip(SIDES, case.network.regress_pairs(encoded, decoded), strict=True):
        case.compare(POINTS[side], side, rows, points[:, 0])
        case.compare(f'conf_{side}', side, rows, confidence[:, 0])


@torch.no_grad()
def test_whole_network_equals_official(folder: Path, case: str) -> None:
    """From the images on, with our own intermediate tokens; every tensor of the case is compared."""
    case = Case(folder, case)
    for stage in PARTS:
        case.require(stage)
    for rows in case.groups():
        encoded = compare_encoder(case, rows)
        compare_heads(case, rows, encoded, compare_decoder(case, rows, encoded))
    assert case.compared == {name for name in case.tensors if name.startswith('out/')}


@torch.no_grad()
def test_encoder_equals_official(folder: Path, case: str) -> None:
    case = Case(folder, case)
    case.require('encode')
    for rows in case.groups():
        compare_encoder(case, rows)


@torch.no_grad()
def test_decoders_alone_equal_official(folder: Path, case: str) -> None:
    """From the file's encoder tokens."""
    case = Case(folder, case)
    case.require('decode')
    for rows in case.groups():
        compare_decoder(case, rows, [case.given(f'enc_tokens_{side}', side, rows) for side in SIDES])


@torch.no_grad()
def test_heads_alone_equal_official(folder: Path, case: str) -> None:
    """From the file's tokens."""
    case = Case(folder, case)
    case.require('regress')
    last = len(case.network.dec_blocks)
    for rows in case.groups():
        encoded = [case.given(f'enc_tokens_{side}', side, rows) for side in SIDES]
        decoded = [case.given(f'dec_tokens_{side}.{last}', side, rows, case.states(side, rows)) for side in SIDES]
        compare_heads(case, rows, encoded, decoded)


@torch.no_grad()
def test_scenes_equal_official_pairs(folder: Path, case: str) -> None:
    """Two views through the contract of all backbones; the mirrored pair is there too."""
    case = Case(folder, case)
    for stage in PARTS:
        case.require(stage)
    network, ran = case.network, 0
    for rows in case.groups():
        if case.shapes['view1'][rows[0]] != case.shapes['view2'][rows[0]]:
            continue
        encoded = network.encode(torch.cat([case.image(side, rows) for side in SIDES], dim=1))
        decoded = network.decode(encoded)
        prediction = network.regress(encoded, decoded, tuple(case.shapes['view1'][rows[0]]))
        for k, side in enumerate(SIDES):
            case.compare(f'dec_tokens_{side}.{len(network.dec_blocks)}', side, rows, decoded.patches[:, k])
            case.compare(POINTS[side], side, rows, prediction['pair_points'][:, 0, k])
            case.compare(f'conf_{side}', side, rows, prediction['pair_confidence'][:, 0, k])
        ran += 1
    if not ran:
        pytest.skip('the two views of this case have different sizes')


@torch.no_grad()
def test_mirrored_pairs_equal_official(folder: Path) -> None:
    """In the symmetrised case another element of the batch is the first one mirrored."""
    if 'symmetrized' not in _cases(folder):
        pytest.skip(f'{folder} has no case of mirrored pairs')
    case = Case(folder, 'symmetrized')
    for stage in PARTS:
        case.require(stage)
    first, second = (case.tensors[f'in/img_{side}'] for side in SIDES)
    rows = [0, next(k for k in range(1, len(first)) if torch.equal(second[k], first[0]))]
    images = torch.cat([case.image(side, [0]) for side in SIDES], dim=1)
    encoded = case.network.encode(images)
    prediction = case.network.regress(encoded, case.network.decode(encoded), tuple(images.shape[-2:]))
    for k, side in enumerate(SIDES):
        case.compare(POINTS[side], side, rows, prediction['pair_points'][0, :, k])
        case.compare(f'conf_{side}', side, rows, prediction['pair_confidence'][0, :, k])


def loss_inputs(folder: Path) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """Points and confidence that want gradients, target and validity (N, 2, ...), and all tensors of the file."""
    tensors = read_tensors(folder, 'losses.safetensors')
    valid = tensors['in/valid_mask']
    views = valid.shape[:2]
    world = Reconstruction(
        points=tensors['in/gt_pts3d_world'],
        local_points=torch.zeros_like(tensors['in/gt_pts3d_world']),
        confidence=torch.ones(valid.shape),
        camera_to_world=tensors['in/gt_camera_pose_c2w'],
        intrinsics=torch.eye(3).expand(*views, 3, 3),
        valid=valid,
    )
    target, known = pair_targets(world)
    assert torch.equal(known[:, 0], valid)
    points, confidence = (tensors[f'in/pred_{name}'].clone().requires_grad_() for name in ('pts3d', 'conf'))
    return points, confidence, target[:, 0], valid, tensors


def mean_error(points: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mean distance in the first views plus that in the second ones."""
    return sum(point_distance(points[:, k], target[:, k], valid[:, k]).mean() for k in range(2))


def compare_loss(value: Tensor, name: str, gradients: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    """Value and gradients; the file must have no gradient that is not compared."""
    torch.testing.assert_close(value.reshape(1), tensors[f'{name}/value'], rtol=1e-4, atol=1e-6)
    expected = {key for key in tensors if key.startswith(f'{name}/grad_')}
    if expected:
        value.backward()
    for key in expected:
        found = gradients[key.removeprefix(f'{name}/grad_pred_')].grad
        torch.testing.assert_close(found, tensors[key], **CLOSE_GRADIENT, msg=lambda text, key=key: f'{key}: {text}')


def test_training_loss_equals_official(folder: Path) -> None:
    points, confidence, target, valid, tensors = loss_inputs(folder)
    name = next((key for key in tensors if re.match(r'ConfLoss_Regr3D_avg_dis_alpha[\d.]+/value', key)), None)
    if name is None:
        pytest.skip(f'{folder} has no case of the training loss')
    alpha = float(re.search(r'alpha([\d.]+)', name)[1])
    terms = DUSt3RCriterion(confidence_alpha=alpha).compare(points, confidence, target, valid)
    name = name.removesuffix('/value')
    facts = read_json(folder, 'losses.json')['values'][name]
    assert terms['first_points'].item() == pytest.approx(facts['conf_loss_1'], rel=1e-4)
    assert terms['second_points'].item() == pytest.approx(facts['conf_loss2'], rel=1e-4)
    compare_loss(sum(terms.values()), name, {'pts3d': points, 'conf': confidence}, tensors)


@pytest.mark.parametrize('name', ['Regr3D_avg_dis', 'Regr3D_avg_dis_gt_scale', 'Regr3D_ScaleShiftInv_gt_scale'])
def test_evaluation_losses_equal_official(folder: Path, name: str) -> None:
    points, _, target, valid, tensors = loss_inputs(folder)
    if f'{name}/value' not in tensors:
        pytest.skip(f'{folder} has no case {name}')
    if name == 'Regr3D_ScaleShiftInv_gt_scale':
        pair = align_medians(points, target, valid)
    else:
        pair = normalise_lengths(points, target, valid, keep_target=name.endswith('gt_scale'))
    compare_loss(mean_error(*pair, valid), name, {'pts3d': points}, tensors)


def test_every_loss_of_the_file_is_compared(folder: Path) -> None:
    names = {key.partition('/')[0] for key in read_tensors(folder, 'losses.safetensors')} - {'in'}
    evaluation = {'Regr3D_avg_dis', 'Regr3D_avg_dis_gt_scale', 'Regr3D_ScaleShiftInv_gt_scale'}
    assert all(re.fullmatch(r'ConfLoss_Regr3D_avg_dis_alpha[\d.]+', name) for name in names - evaluation)


@pytest.mark.parametrize('twins', ['both', 'layer_rn', 'layerN_rn'])
@pytest.mark.parametrize(('manifest', 'head'), [('manifest_full.json', 'dpt'), ('manifest_224_linear.json', 'linear')])
def test_defaults_have_the_names_and_shapes_of_the_release(folder: Path, manifest: str, head: str, twins: str) -> None:
    entries = read_json(folder, manifest)['state_dict']
    dropped = {'both': r'$', 'layer_rn': r'.*\.layer\d_rn\..*', 'layerN_rn': r'.*\.layer_rn\..*'}[twins]
    # one number stands for each tensor
    official = {n: torch.zeros(()).expand(entry['shape']) for n, entry in entries.items() if not re.match(dropped, n)}
    with torch.device('meta'):
        network = DUSt3RBackbone(head=head)
    expected = strip_unused(network, network.translate_official(official, folder / manifest))
    found = {name: value.shape for name, value in network.state_dict().items()}
    assert found == {name: value.shape for name, value in expected.items()}


def test_official_file_loads_through_init_cfg(folder: Path) -> None:
    """As the files are released, with twin names and weights that are never read."""
    network, stages = build(folder)
    if stages != set(PARTS):
        pytest.skip('the weights file holds a part of the network')
    expected = {name: value.clone() for name, value in network.state_dict().items()}
    network.init_cfg = {'type': 'Pretrained', 'checkpoint': str(folder / 'small.safetensors')}
    for parameter in network.parameters():
        parameter.data.zero_()
    network.init_weights()
    assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())
