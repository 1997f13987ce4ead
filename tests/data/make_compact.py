"""Cut the shipped reference values of the backbones out of a full set: python tests/data/make_compact.py GOLDEN_ROOT.

A full set holds one folder per backbone with the tensors of a tiny network under the official code. What is kept
proves as much per byte as possible: parts of each network with the tokens they read, and losses with gradients.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

HERE = Path(__file__).parent


def keep(tensors: Mapping[str, Tensor], *patterns: str) -> dict[str, Tensor]:
    """Those with names that match one of the patterns; each pattern must match some."""
    for pattern in patterns:
        if not any(re.fullmatch(pattern, name) for name in tensors):
            raise ValueError(f'nothing is called {pattern}')
    return {name: value for name, value in tensors.items() if any(re.fullmatch(p, name) for p in patterns)}


def shapes_only(tensors: Mapping[str, Tensor], pattern: str) -> dict[str, Tensor]:
    """Zeros of one byte in place of images whose shapes alone are read, where the tokens made of them are given."""
    return {name: torch.zeros(value.shape, dtype=torch.bool) for name, value in keep(tensors, pattern).items()}


def compact_losses(source: Path, target: Path, *patterns: str) -> None:
    """Whole tensors, as the official values are sums over all of them; only some of the cases."""
    tensors = keep(load_file(source / 'losses.safetensors'), *patterns)
    save_file(tensors, target / 'losses.safetensors')
    facts = json.loads((source / 'losses.json').read_text())
    cases = {name.rpartition('/')[0] for name in tensors}
    facts['values'] = {name: values for name, values in facts['values'].items() if name in cases}
    (target / 'losses.json').write_text(json.dumps(facts, indent=1) + '\n')


def compact_facts(source: Path, target: Path, *names: str) -> None:
    """Sizes that weights do not show, and the sizes that the official loader gives."""
    facts = json.loads((source / 'small.json').read_text())
    (target / 'small.json').write_text(json.dumps({name: facts[name] for name in names}, indent=1) + '\n')
    (target / 'preprocess.json').write_text(pack(json.loads((source / 'preprocess.json').read_text())))


def compact_names(source: Path, target: Path, file: str, *levels: str) -> None:
    """Names and shapes of the network of full size."""
    facts = json.loads((source / file).read_text())
    states = {level: {name: {'shape': entry['shape']} for name, entry in facts[level].items()} for level in levels}
    (target / file).write_text(pack(states))


def pack(content: Mapping[str, Mapping | list | str]) -> str:
    """JSON with a line for each entry at the top."""
    lines = [f'{json.dumps(name)}: {json.dumps(value, separators=(",", ":"))}' for name, value in content.items()]
    return '{\n' + ',\n'.join(lines) + '\n}\n'


def dust3r(source: Path, target: Path) -> None:
    """The training loss with gradients, the other losses by value, and the names."""
    compact_losses(source, target, 'in/.*', 'ConfLoss.*', '.*/value')
    compact_facts(source, target, 'constructor')
    compact_names(source, target, 'manifest_full.json', 'state_dict')


def must3r(source: Path, target: Path) -> None:
    """The decoder with its memory, feedback and head; encoder tokens are given."""
    compact_losses(source, target, 'in/.*', r'ConfLoss_alpha[\d.]+_Regr3D_\?avg_dis_sky2_log/.*')
    compact_facts(source, target, 'encoder', 'decoder', 'cases')
    compact_names(source, target, 'manifest_full.json', 'encoder', 'decoder')
    save_file(keep(load_file(source / 'small.safetensors'), r'decoder\..*'), target / 'small.safetensors')
    tensors = load_file(source / 'io.safetensors')
    last_step = max(name for name in tensors if re.match(r'online/out/step\d+_update', name)).split('/')[2]
    depth = max(int(name[-1]) for name in tensors if re.match(r'online/out/step1.*/feat\d$', name))
    kept = keep(
        tensors,
        'online/out/encoder_tokens_view.*',
        f'online/out/step.*/feat{depth}',
        f'online/out/{last_step}/memory_(labels|counters|layer0|layer{depth - 1})',
        'online/out/refined_once_render_view2/raw_pointmaps',
        f'joint_mixed_init/out/step1/.*/feat{depth}',
        'single_init/out/step1.*/memory_.*',
    )
    save_file(kept | shapes_only(tensors, 'online/in/img_view.*'), target / 'io.safetensors')


def vggt(source: Path, target: Path) -> None:
    """The first pair of aggregator blocks and the depth head; patch tokens are given."""
    compact_losses(source, target, 'in/(?!pred_world_points).*', '.*default_config/.*')
    compact_facts(source, target, 'constructor')
    weights = keep(
        load_file(source / 'small.safetensors'),
        r'aggregator\.(camera|register)_token',
        r'aggregator\.(frame|global)_blocks\.0\..*',
        r'depth_head\..*',
    )
    save_file(weights, target / 'small.safetensors')
    tensors = load_file(source / 'io.safetensors')
    case = 'other_aspect'
    read = json.loads((source / 'small.json').read_text())['constructor']['dpt_heads']['intermediate_layer_idx']
    kept = keep(
        tensors,
        rf'{case}/out/(aggregated_tokens\.({"|".join(map(str, read))})|depth|depth_conf|dino/x_norm_patchtokens)',
        rf'{case}/out/(pose_enc|extrinsics_world_to_camera|intrinsics)',
        'pose_encoding/.*',
    )
    save_file(kept | shapes_only(tensors, f'{case}/in/images'), target / 'io.safetensors')


def pi3(source: Path, target: Path) -> None:
    """The DINOv2 encoder, which is that of VGGT too, and the rotations of the camera head."""
    compact_losses(source, target, 'in/.*', 'with_normal_loss/.*')
    compact_facts(source, target, 'constructor')
    compact_names(source, target, 'manifest_full.json', 'state_dict')
    save_file(keep(load_file(source / 'small.safetensors'), r'encoder\..*', 'image_.*'), target / 'small.safetensors')
    kept = keep(
        load_file(source / 'io.safetensors'),
        r'single_view/(in/images|out/encoder/.*|out/token_positions)',
        'svd_orthogonalize/.*',
    )
    save_file(kept, target / 'io.safetensors')


BACKBONES: dict[str, Callable[[Path, Path], None]] = {'dust3r': dust3r, 'must3r': must3r, 'vggt': vggt, 'pi3': pi3}


def main() -> None:
    parser = argparse.ArgumentParser(description='Cut the shipped reference values out of a full set.')
    parser.add_argument('golden_root', type=Path, help='folder with one folder per backbone')
    root = parser.parse_args().golden_root
    for name, make in BACKBONES.items():
        (HERE / name).mkdir(exist_ok=True)
        make(root / name, HERE / name)
        for path in (HERE / name).iterdir():
            path.chmod(0o644)
        size = sum(path.stat().st_size for path in (HERE / name).iterdir())
        print(f'{name}: {size / 1e6:.2f} MB')


if __name__ == '__main__':
    main()
