"""MUSt3R against the official network and the official losses, on tiny instances with random weights.

The same tests run on a small set that is shipped (tests/data/must3r) and on the folder given as --golden-root. All
sizes, and which views do what in which call, are read from the files; a stage whose weights or tensors a folder does
not hold is skipped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from functools import partial
from itertools import combinations, pairwise
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from pano3d.functional.geometry import invert_rigid, transform_points
from pano3d.models import MUSt3RBackbone, MUSt3RCriterion
from pano3d.models.backbones import MUSt3RMemory, Tokens
from pano3d.models.backbones.must3r import OFFICIAL_NAMES, activate
from pano3d.models.layers import grid_positions
from pano3d.models.loading import rename

SHIPPED = Path(__file__).parent.parent / 'data' / 'must3r'
CLOSE = {'rtol': 1e-4, 'atol': 1e-4}
MODES = ('kv', 'norm_y', 'raw')


def _folders(config: pytest.Config) -> dict[str, Path]:
    root = config.getoption('--golden-root')
    return {'shipped': SHIPPED} | ({} if root is None else {'given': root.resolve() / 'must3r'})


def _names(folder: Path, file: str) -> list[str]:
    if not (folder / file).is_file():
        return []
    with safe_open(folder / file, 'pt') as tensors:
        return list(tensors.keys())


def _cases(folder: Path, file: str) -> list[str]:
    """The case names of a file: what stands before `/in/`, `/out/` or the value of a loss."""
    found = (re.match(r'(.+?)/(?:in/|out/|value$)', name) for name in _names(folder, file))
    return sorted({match[1] for match in found if match})


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folders = _folders(metafunc.config)
    if 'case' in metafunc.fixturenames:
        file = metafunc.function.file
        pairs = [(name, folder, case) for name, folder in folders.items() for case in _cases(folder, file)]
        ids = [f'must3r-{name}-{case}' for name, _, case in pairs]
        metafunc.parametrize(('folder', 'case'), [pair[1:] for pair in pairs], ids=ids)
    elif 'folder' in metafunc.fixturenames:
        metafunc.parametrize('folder', folders.values(), ids=[f'must3r-{name}' for name in folders])


def cases_of(file: str) -> Callable:
    """Run the test once per case that the file of a folder holds."""

    def mark(function: Callable) -> Callable:
        function.file = file
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


def build(folder: Path, *, memory_mode: str = 'kv') -> MUSt3RBackbone:
    """The network of the weights file; only what weights do not show comes from small.json."""
    state = read_tensors(folder, 'small.safetensors')
    facts = read_json(folder, 'small.json')
    names = [name for name in state if name.startswith('decoder.')]
    if not names:
        pytest.skip(f'{folder} has no weights of the decoder')

    def depth(blocks: str) -> int:
        return len({name.split('.')[2] for name in state if name.startswith(f'{blocks}.')})

    dim, encoder_dim = state['decoder.feat_embed_enc_to_dec.weight'].shape
    outputs = state['decoder.head_dec.proj.bias'].numel()
    has_encoder = 'encoder.norm_enc.bias' in state
    network = MUSt3RBackbone(
        patch_size=round((outputs / 7) ** 0.5),
        encoder_dim=encoder_dim,
        encoder_depth=depth('encoder.blocks_enc'),
        encoder_heads=facts['encoder']['num_heads'],
        decoder_dim=dim,
        decoder_depth=depth('decoder.blocks_dec'),
        decoder_heads=facts['decoder']['num_heads'],
        mlp_ratio=state['decoder.blocks_dec.0.mlp.fc1.bias'].numel() / dim,
        feedback='decoder.feedback_norm.bias' in state,
        frequency_scale=frequency_scale(facts['encoder'].get('pos_embed', 'RoPE100')),
        memory_mode=memory_mode,
    )
    missing, unexpected = network.load_state_dict(rename(state, OFFICIAL_NAMES), strict=has_encoder)
    assert not unexpected
    assert all(name.startswith('encoder.') for name in missing)
    network.has_encoder = has_encoder
    return network.eval()


def frequency_scale(name: str) -> float:
    """'RoPE100' -> 1, 'RoPE100_512:768' -> 512 / 768."""
    match = re.fullmatch(r'RoPE100(?:_(\d+):(\d+))?', name)
    return 1.0 if match[1] is None else int(match[1]) / int(match[2])


class Comparison:
    """All outputs of a case; every one must be compared in the end."""

    def __init__(self, folder: Path, case: str) -> None:
        tensors = read_tensors(folder, 'io.safetensors')
        self.case = case
        self.all = tensors
        self.inputs = self._under(f'{case}/in/')
        self.outputs = self._under(f'{case}/out/')
        self.left = set(self.outputs)

    def _under(self, prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in self.all.items() if name.startswith(prefix)}

    def equal(self, name: str, found: Tensor) -> None:
        """Compare, if the file has a tensor of this name."""
        if name not in self.outputs:
            return
        full = f'{self.case}/out/{name}'
        torch.testing.assert_close(found, self.outputs[name], **CLOSE, msg=lambda text: f'{full}: {text}')
        self.left.discard(name)

    def memory(self, name: str, memory: MUSt3RMemory) -> None:
        for layer, value in enumerate(memory.layers):
            self.equal(f'{name}/memory_layer{layer}', value)
        self.equal(f'{name}/memory_labels', memory.labels)
        # images and tokens are all protected: nothing is ever dropped
        counters = [memory.num_images, memory.num_images, memory.num_tokens]
        self.equal(f'{name}/memory_counters', torch.tensor(counters))

    def finish(self) -> None:
        assert self.outputs
        assert not self.left


def raw_maps(network: MUSt3RBackbone, decoded: Tokens) -> Tensor:
    views = decoded.patches.shape[:2]
    return network.decoder.head_dec(decoded.patches.flatten(0, 1), decoded.grid).unflatten(0, views)


class Recorder:
    """The states after every block in the latest call, stack by stack."""

    def __init__(self, network: MUSt3RBackbone) -> None:
        self.network = network
        for index, block in enumerate(network.decoder.blocks_dec):
            block.register_forward_hook(lambda _, __, output, index=index: self.states[index].append(output))
        self.clear()

    def clear(self) -> None:
        self.states: list[list[Tensor]] = [[] for _ in self.network.decoder.blocks_dec]


def compare_views(
    comparison: Comparison, name: str, recorder: Recorder, stack: int, encoded: Tokens, decoded: Tokens
) -> None:
    """All that a file can hold of a stack of views."""
    comparison.equal(f'{name}/feat0', encoded.patches)
    for index, states in enumerate(recorder.states[:-1]):
        comparison.equal(f'{name}/feat{index + 1}', states[stack])
    comparison.equal(f'{name}/feat{len(recorder.states)}', decoded.patches)
    comparison.equal(f'{name}/raw_pointmaps', raw_maps(recorder.network, decoded))
    found = recorder.network.regress(encoded, decoded, (0, 0))
    comparison.equal(f'{name}/pts3d', found['points'])
    comparison.equal(f'{name}/pts3d_local', found['local_points'])
    comparison.equal(f'{name}/conf', found['confidence'])


def view_numbers(text: str) -> list[int]:
    return [int(number) for number in re.fullmatch(r'.*?views?_([\d_]+)', text)[1].split('_')]


def online_tokens(network: MUSt3RBackbone, comparison: Comparison) -> list[Tokens]:
    """Encoder tokens of single views, from the file where it has them."""
    tokens = []
    for view in range(sum(name.startswith('online/in/img_view') for name in comparison.all)):
        image = comparison.all[f'online/in/img_view{view}'][:, None]
        name = f'online/out/encoder_tokens_view{view}'
        if name in comparison.all:
            grid = tuple(side // network.patch_size for side in image.shape[-2:])
            tokens.append(Tokens(comparison.all[name][:, None], grid))
        elif network.has_encoder:
            tokens.append(network.encode((image + 1) / 2))
        else:
            pytest.skip(f'{comparison.case} needs the weights of the encoder')
    return tokens


def stack(tokens: list[Tokens], views: list[int]) -> Tokens:
    assert len({tokens[view].grid for view in views}) == 1
    return Tokens(torch.cat([tokens[view].patches for view in views], dim=1), tokens[views[0]].grid)


def check_online_encoder(network: MUSt3RBackbone, comparison: Comparison, tokens: list[Tokens]) -> None:
    for view, expected in enumerate(tokens):
        positions = grid_positions(*expected.grid)
        comparison.equal(f'encoder_pos_view{view}', positions.expand(len(expected.patches), -1, -1))
        if network.has_encoder:
            found = network.encode((comparison.inputs[f'img_view{view}'][:, None] + 1) / 2)
            comparison.equal(f'encoder_tokens_view{view}', found.patches[:, 0])
        else:
            comparison.left.discard(f'encoder_tokens_view{view}')


def check_steps(comparison: Comparison, network: MUSt3RBackbone, tokens: list[Tokens]) -> None:
    """Steps in the order and with the views that their names tell: stepN_(init|update|render)_view(s)_I_J."""
    recorder, memory, batches = Recorder(network), None, []
    steps = sorted({match[0] for name in comparison.outputs if (match := re.match(r'step(\d+)_\w+', name))})
    for step in sorted(steps, key=lambda step: int(re.match(r'step(\d+)', step)[1])):
        recorder.clear()
        encoded = stack(tokens, view_numbers(step))
        if '_render_' in step:
            decoded = network.render(memory, encoded)
        else:
            memory, (decoded,) = network.update(memory, encoded)
            batches.append(encoded)
        comparison.memory(step, memory)
        compare_views(comparison, step, recorder, 0, encoded, decoded)
    if any(name.startswith('refined_once') for name in comparison.outputs):
        refined = network.refine(memory, batches)
        for view, encoded in enumerate(tokens):
            rendered = raw_maps(network, network.render(refined, encoded))
            comparison.equal(f'refined_once_render_view{view}/raw_pointmaps', rendered[0, 0])


def first_that_fits(attempts: Iterable[Callable[[], None]]) -> None:
    """Try what a file leaves open, until all that is compared agrees."""
    failure = None
    for attempt in attempts:
        try:
            attempt()
        except AssertionError as error:
            failure = failure or error
        else:
            return
    raise failure


def check_joint(comparison: Comparison, network: MUSt3RBackbone, tokens: list[Tokens]) -> None:
    """One call with several stacks; the official code may have sorted them by size."""
    recorder = Recorder(network)
    names = {match[1] for name in comparison.outputs if (match := re.match(r'step1/(views?_[\d_]+)/', name))}

    def attempt(groups: list[str]) -> None:
        recorder.clear()
        stacks = [stack(tokens, view_numbers(group)) for group in groups]
        memory, decoded = network.update(None, stacks)
        comparison.memory('step1', memory)
        for index, group in enumerate(groups):
            compare_views(comparison, f'step1/{group}', recorder, index, stacks[index], decoded[index])

    by_view = sorted(names, key=view_numbers)
    by_size = sorted(names, key=lambda group: tokens[view_numbers(group)[0]].grid)
    first_that_fits(partial(attempt, groups) for groups in (by_view, by_size))


def check_batch(comparison: Comparison, folder: Path) -> None:
    """Updates as the names tell, then all rendered, in every memory mode; the maps must agree in all of them."""
    for mode in MODES:
        network = build(folder, memory_mode=mode)
        tokens = images_or_tokens(network, comparison)
        recorder, memory = Recorder(network), None
        steps = sorted({match[0] for name in comparison.outputs if (match := re.match(r'step(\d+)_\w+', name))})
        for step in [step for step in steps if '_render_' not in step]:
            views = view_numbers(step)
            part = Tokens(tokens.patches[:, views], tokens.grid)
            memory, (decoded,) = network.update(memory, part)
            recorder.clear()
            comparison.equal(f'{step}/raw_pointmaps', raw_maps(network, decoded))
        comparison.memory(f'{mode}/after_update', memory)
        decoded = network.render(memory, tokens)
        compare_views(comparison, 'render', recorder, 0, tokens, decoded)
        for step in [step for step in steps if '_render_' in step]:
            compare_views(comparison, step, recorder, 0, tokens, decoded)


def images_or_tokens(network: MUSt3RBackbone, comparison: Comparison) -> Tokens:
    """Encoded images of the case; without an encoder the file's own tokens."""
    images = comparison.inputs['imgs']
    if network.has_encoder:
        encoded = network.encode((images + 1) / 2)
        comparison.equal('encoder_tokens', encoded.patches)
        return encoded
    if 'encoder_tokens' not in comparison.outputs:
        pytest.skip(f'{comparison.case} needs the weights of the encoder')
    comparison.left.discard('encoder_tokens')
    height, width = images.shape[-2:]
    return Tokens(comparison.outputs['encoder_tokens'], (height // network.patch_size, width // network.patch_size))


def splits(description: str, views: int) -> list[list[int]]:
    """Sizes of the calls that fill the memory: what the description says, such as [3,2], or else all there are."""
    match = re.search(r'\[\d+(?:, *\d+)*\]', description)
    if match and sum(json.loads(match[0])) == views:
        return [json.loads(match[0])]
    cuts = [[0, *inner, views] for count in range(views) for inner in combinations(range(1, views), count)]
    return [[stop - start for start, stop in pairwise(cut)] for cut in cuts]


def check_causal(comparison: Comparison, network: MUSt3RBackbone, sizes: list[int]) -> None:
    encoded = images_or_tokens(network, comparison)
    memory, passes, first = None, [], 0
    for size in sizes:
        part = Tokens(encoded.patches[:, first : first + size], encoded.grid)
        memory, (decoded,) = network.update(memory, part, causal=True)
        passes.append(raw_maps(network, decoded))
        first += size
    comparison.equal('first_pass_raw_pointmaps', torch.cat(passes, dim=1))
    comparison.equal('render_raw_pointmaps', raw_maps(network, network.render(memory, encoded)))


def check_mixed_orientation(comparison: Comparison, network: MUSt3RBackbone, sizes: list[int]) -> None:
    """Views stored lying down are put upright, one stack each; their maps are laid down again."""
    if not network.has_encoder:
        pytest.skip(f'{comparison.case} needs the weights of the encoder')
    images, shapes = comparison.inputs['imgs'], comparison.inputs['true_shape']
    first_pass, rendered = [], []
    for scene, true_sizes in zip(images, shapes.tolist(), strict=True):
        lying = [height > width for height, width in true_sizes]
        upright = [image.mT if turned else image for image, turned in zip(scene, lying, strict=True)]
        tokens = [network.encode((image[None, None] + 1) / 2) for image in upright]
        memory, passes = None, []
        for size in sizes:
            first = len(passes)
            memory, decoded = network.update(memory, tokens[first : first + size])
            passes += decoded
        maps = [
            [
                raw_maps(network, view)[0, 0].transpose(0, int(turned))
                for view, turned in zip(views, lying, strict=False)
            ]
            for views in (passes, [network.render(memory, view) for view in tokens])
        ]
        first_pass.append(torch.stack(maps[0]))
        rendered.append(torch.stack(maps[1]))
    comparison.equal('first_pass_raw_pointmaps', torch.stack(first_pass))
    comparison.equal('render_raw_pointmaps', torch.stack(rendered))


def check_cameras(comparison: Comparison) -> None:
    with torch.device('meta'):
        network = MUSt3RBackbone()  # no weights take part
    prediction = activate(comparison.inputs['raw_pointmaps'])
    found = network.reconstruct(prediction)
    comparison.equal('pts3d', prediction['points'])
    comparison.equal('pts3d_local', prediction['local_points'])
    comparison.equal('conf', prediction['confidence'])
    comparison.equal('focal', found.intrinsics[..., 0, 0])
    comparison.equal('c2w', found.camera_to_world)


@cases_of('io.safetensors')
@torch.no_grad()
def test_network_equals_official(folder: Path, case: str) -> None:
    comparison = Comparison(folder, case)
    if case == 'camera_recovery':
        check_cameras(comparison)
        comparison.finish()
        return
    network = build(folder)
    if case in ('causal', 'train_mixed_orientation'):
        check = check_causal if case == 'causal' else check_mixed_orientation
        description = read_json(folder, 'small.json')['cases'].get(case, '')
        views = comparison.outputs['first_pass_raw_pointmaps'].shape[1]
        first_that_fits(partial(check, comparison, network, sizes) for sizes in splits(description, views))
    elif case == 'batch':
        check_batch(comparison, folder)
    else:
        tokens = online_tokens(network, comparison)
        if case == 'online':
            check_online_encoder(network, comparison, tokens)
        check = check_joint if case == 'joint_mixed_init' else check_steps
        check(comparison, network, tokens)
    comparison.finish()


@cases_of('losses.safetensors')
def test_losses_equal_official(folder: Path, case: str) -> None:
    tensors = read_tensors(folder, 'losses.safetensors')
    expected = read_json(folder, 'losses.json')['values'][case]
    names = {'points': 'pred_pts3d', 'local_points': 'pred_pts3d_local', 'confidence': 'pred_conf'}
    prediction = {name: tensors[f'in/{theirs}'].clone().requires_grad_() for name, theirs in names.items()}
    world_to_camera = invert_rigid(tensors['in/gt_camera_pose_c2w'])
    world = tensors['in/gt_pts3d_world']
    metric = tensors['in/is_metric_scale'] if '?' in case else torch.zeros_like(tensors['in/is_metric_scale'])
    criterion = MUSt3RCriterion(
        loss_in_log=case.endswith('log'),
        sky_value=float(re.search(r'sky([\d.]+)', case)[1]),
        confidence_alpha=float(re.search(r'alpha([\d.]+)', case)[1]),
    )
    terms = criterion.compare(
        prediction,
        transform_points(world_to_camera[:, :1, None], world),
        transform_points(world_to_camera[:, :, None], world),
        tensors['in/valid_mask'],
        metric=metric,
        sky=tensors['in/sky_mask'],
    )
    assert terms['points'].item() == pytest.approx(expected['conf_loss_g'], rel=1e-4)
    assert terms['local_points'].item() == pytest.approx(expected['conf_loss_l'], rel=1e-4)
    total = sum(terms.values())
    assert total.item() == pytest.approx(tensors[f'{case}/value'].item(), rel=1e-4)
    total.backward()
    gradients = {f'grad_{names[name]}': value.grad for name, value in prediction.items()}
    assert {f'{case}/{name}' for name in gradients} | {f'{case}/value'} == {
        name for name in tensors if name.startswith(f'{case}/')
    }
    for name, value in gradients.items():
        expected = tensors[f'{case}/{name}']
        rounding = 1e-4 * expected.abs().max().item()  # each is a sum over all pixels, through the scale
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=rounding, msg=lambda text, n=name: f'{n}: {text}')


def test_defaults_have_the_names_and_shapes_of_must3r_512(folder: Path) -> None:
    if not (folder / 'manifest_full.json').is_file():
        pytest.skip(f'{folder} has no list of the full names')
    manifest = read_json(folder, 'manifest_full.json')
    official = {f'{part}.{name}': entry for part in ('encoder', 'decoder') for name, entry in manifest[part].items()}
    with torch.device('meta'):
        state = MUSt3RBackbone().state_dict()
    expected = {name: entry['shape'] for name, entry in rename(official, OFFICIAL_NAMES).items()}
    assert {name: list(value.shape) for name, value in state.items()} == expected


@pytest.mark.parametrize('layout', ['parts', 'prefixes'])
def test_official_file_loads_through_init_cfg(folder: Path, layout: str, tmp_path: Path) -> None:
    """As released, two state dicts, or as one file with prefixes."""
    network = build(folder)
    if not network.has_encoder:
        pytest.skip(f'{folder} has no weights of the encoder')
    official = read_tensors(folder, 'small.safetensors')
    checkpoint = folder / 'small.safetensors'
    if layout == 'parts':
        checkpoint = tmp_path / 'official.pth'
        parts = {
            part: {name.removeprefix(f'{part}.'): value for name, value in official.items() if name.startswith(part)}
            for part in ('encoder', 'decoder')
        }
        torch.save(parts, checkpoint)
    network.init_cfg = {'type': 'Pretrained', 'checkpoint': str(checkpoint)}
    for parameter in network.parameters():
        parameter.data.zero_()
    network.init_weights()
    state = rename(official, OFFICIAL_NAMES)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
