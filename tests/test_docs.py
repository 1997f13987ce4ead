"""The documents keep their word: commands run, examples bind, links lead somewhere, names and values are the code's.

A shell block says directly above itself whether it is executed here: `<!-- run -->`, or `<!-- not run: reason -->`. The
blocks to run of a document run in their order in one folder that looks like the root of the repository.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope, Registry

import pano3d
from pano3d import registry as registries
from pano3d.engine.config import load_config, resolve
from pano3d.models.backbones.released import RELEASED
from pano3d.registry import MODELS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(pano3d.__file__).parent
CONFIGS = ROOT / 'configs'
DOCUMENTS = [ROOT / 'README.md', ROOT / 'projects/Pano3D/README.md', *sorted((ROOT / 'docs').rglob('*.md'))]
ARCHITECTURE = ROOT / 'docs/architecture.md'
INTERPRETERS = {'bash': ['bash', '-euo', 'pipefail', '-c'], 'python': [sys.executable, '-c']}
LANGUAGES = {*INTERPRETERS, 'json', ''}  # a shell block is called bash, so that none is overlooked
FENCE = re.compile(r'(?:^<!-- (?P<mark>.*) -->\n)?^```(?P<language>.*)\n(?P<text>(?:.*\n)*?)^```$', re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block and the comment directly above it."""

    document: Path
    line: int
    language: str
    text: str
    mark: str

    def __str__(self) -> str:
        return f'{self.document.relative_to(ROOT)}:{self.line}'

    @property
    def is_config(self) -> bool:
        """Assignments and nothing else."""
        return self.language == 'python' and all(isinstance(node, ast.Assign) for node in ast.parse(self.text).body)


def blocks_of(document: Path) -> list[Block]:
    text = document.read_text()
    return [
        Block(document, text[: match.start('text')].count('\n'), match['language'], match['text'], match['mark'] or '')
        for match in FENCE.finditer(text)
    ]


def prose_of(document: Path) -> str:
    return FENCE.sub('', document.read_text())


def code_spans(document: Path) -> list[str]:
    return re.findall(r'`([^`\n]+)`', prose_of(document))


def name_of(item: object) -> str:
    return str(item.relative_to(ROOT)) if isinstance(item, Path) else str(item)


BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document)]
each_document = pytest.mark.parametrize('document', DOCUMENTS, ids=name_of)


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """What a reader sees at the root of the repository, where outputs are thrown away."""
    for name in ('configs', 'projects', 'tools'):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


# --- blocks --------------------------------------------------------------------------------------------------------


@each_document
def test_every_fence_is_understood(document):
    lines = document.read_text().splitlines()
    assert sum(line.lstrip().startswith('```') for line in lines) == 2 * len(blocks_of(document))
    assert {block.language for block in blocks_of(document)} <= LANGUAGES


@pytest.mark.parametrize('block', [block for block in BLOCKS if block.language == 'bash'], ids=name_of)
def test_a_shell_block_is_run_or_says_why_not(block):
    assert re.fullmatch(r'run|not run: \S.*', block.mark), f'{block}: found {block.mark!r} above it'
    subprocess.run(['bash', '-n', '-c', block.text], check=True)


@pytest.mark.slow
@pytest.mark.parametrize('document', sorted({b.document for b in BLOCKS if b.mark == 'run'}), ids=name_of)
def test_commands_run(document, workplace):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])
    environment = {**os.environ, 'PATH': path, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
    for block in blocks_of(document):
        if block.mark == 'run':
            command = [*INTERPRETERS[block.language], block.text]
            done = subprocess.run(command, cwd=workplace, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f'{block}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}'


@pytest.mark.parametrize('block', [block for block in BLOCKS if block.language == 'python'], ids=name_of)
def test_python_compiles_and_imports_what_there_is(block):
    tree = ast.parse(block.text, str(block))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert not [alias.name for alias in node.names if not hasattr(module, alias.name)]


@pytest.mark.parametrize('block', [block for block in BLOCKS if block.is_config], ids=name_of)
def test_a_config_in_a_document_binds(block, workplace):
    path = workplace / 'example.py'
    path.write_text(block.text)
    load_config(path)


@pytest.mark.parametrize('block', [block for block in BLOCKS if 'iter_' in block.text], ids=name_of)
def test_a_named_checkpoint_is_the_one_that_training_leaves(block):
    for command in block.text.replace('\\\n', ' ').splitlines():
        steps = re.findall(r'iter_(\d+)\.pth', command)
        for config in [word for word in shlex.split(command, comments=True) if word.startswith('configs/')]:
            assert set(steps) <= {str(load_config(ROOT / config).train_cfg.max_iters)}, command


# --- links ---------------------------------------------------------------------------------------------------------


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives to headings."""
    headings = re.findall(r'^#+ (.+)$', FENCE.sub('', document.read_text()), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


@each_document
def test_links_lead_somewhere(document):
    prose = re.sub(r'`[^`\n]+`', '', prose_of(document))
    broken = []
    for target in re.findall(r'\]\(([^)\s]+)\)', prose):
        if re.match(r'https?:', target):
            continue
        path, _, anchor = target.partition('#')
        file = (document.parent / path).resolve() if path else document
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


# --- names and values ----------------------------------------------------------------------------------------------


def exists(dotted: str) -> bool:
    """Whether `pano3d.a.b.C` is a module or an attribute of one."""
    try:
        pkgutil.resolve_name(dotted)
    except (ImportError, AttributeError):
        return False
    return True


@each_document
def test_named_code_and_files_exist(document):
    spans = code_spans(document)
    missing = [name for name in spans if re.fullmatch(r'pano3d(\.\w+)+', name) and not exists(name)]
    files = [name for name in spans if re.fullmatch(r'[\w./-]+/[\w.-]+\.(py|sh|md)', name)]
    missing += [name for name in files if not any((place / name).is_file() for place in (ROOT, PACKAGE))]
    assert not missing


def test_the_list_of_registered_names_is_complete():
    registered = set()
    for variable, registry in vars(registries).items():
        if isinstance(registry, Registry):
            registry.import_from_location()
            ours = [name for name, item in registry.module_dict.items() if item.__module__.startswith('pano3d.')]
            registered |= {(name, variable) for name in ours}
    section = ARCHITECTURE.read_text().partition('## Registered names')[2].partition('\n## ')[0]
    assert set(re.findall(r'^\| `(\w+)` \| (\w+) \|', section, re.MULTILINE)) == registered


def value_at(config: Config, key: str) -> Any:
    """What a config has at a dotted key, or else the default of the class there."""
    *parents, last = key.split('.')
    node = config
    for parent in parents:
        node = node[parent]
    return node[last] if last in node else inspect.signature(resolve(node['type'])).parameters[last].default


def test_the_values_in_the_tables_are_those_of_the_recipe():
    recipe = load_config(CONFIGS / 'pano3d_vggt_scannet.py')
    matches = [re.fullmatch(r'(\w+(?:\.\w+)+) = (.+)', span) for span in code_spans(ARCHITECTURE)]
    stated = {match[1]: ast.literal_eval(match[2]) for match in matches if match}
    assert len(stated) > 20
    found = {key: value_at(recipe, key) for key in stated}
    assert {key: tuple(v) if isinstance(v, list) else v for key, v in found.items()} == stated


def test_the_table_of_weights_is_that_of_the_package():
    rows = [[n.name, ', '.join(f'`{file}`' for file in n.files), n.source, n.licence, n.terms_from] for n in RELEASED]
    text = (ROOT / 'docs/backbones.md').read_text()
    table = text.partition('<!-- weights-table -->\n')[2].partition('<!-- /weights-table -->')[0]
    assert [line.strip('| ').split(' | ') for line in table.splitlines()[2:]] == rows


SIZES = re.findall(
    r'^\| `(configs/\S+_(?:scannet|demo)\.py)` \| ([\d.| ]+) \|$', (ROOT / 'docs/model_zoo.md').read_text(), re.M
)


@pytest.mark.parametrize(('path', 'row'), SIZES, ids=[path for path, _ in SIZES])
def test_the_sizes_of_the_models_are_those_of_the_configs(path, row):
    config = load_config(ROOT / path).model
    with torch.device('meta'), DefaultScope.overwrite_default_scope('pano3d'):
        model = MODELS.build(config)

    def millions(*modules: torch.nn.Module, trained: bool = False) -> float:
        every = [parameter for module in modules for parameter in module.parameters()]
        return sum(parameter.numel() for parameter in every if parameter.requires_grad or not trained) / 1e6

    encoder = millions(*map(model.backbone.get_submodule, model.backbone.encoder_modules()))
    found = [millions(model), millions(model, trained=True), encoder]
    found += [millions(model.backbone) - encoder, millions(model.head)]
    assert [f'{value:.1f}' for value in found] == row.split(' | ')


def test_the_sizes_of_all_models_are_listed():
    recipes = {str(path.relative_to(ROOT)) for kind in ('scannet', 'demo') for path in CONFIGS.glob(f'*_{kind}.py')}
    assert {path for path, _ in SIZES} == recipes
