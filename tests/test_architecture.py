"""The house stands as docs/architecture.md says: who may import whom, and what an import costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pano3d

PACKAGE = Path(pano3d.__file__).parent
SIBLINGS = {'models', 'datasets', 'conversion', 'evaluation', 'visualization'}
ALLOWED = {
    'functional': set(),
    'structures': {'functional'},
    **{name: {'functional', 'structures', 'registry'} for name in SIBLINGS},
    'engine': {'functional', 'structures', 'registry', *SIBLINGS},
    'apis': {'functional', 'structures', 'registry', *SIBLINGS, 'engine'},
    'mmdet3d': {'functional', 'structures', 'registry', *SIBLINGS, 'engine'},
}
HEAVY = {'mmdet3d', 'mmdet', 'mmcv', 'spconv'}
FILES = sorted(PACKAGE.rglob('*.py'))


def imports(path: Path) -> set[str]:
    """Absolute dotted names that a file imports anywhere, relative ones resolved."""
    names = set()
    inside = ['pano3d', *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = inside[: len(inside) - node.level + 1] if node.level else []
            module = '.'.join([*base, *([node.module] if node.module else [])])
            names |= {f'{module}.{alias.name}' for alias in node.names} | {module}
    return names


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_import_arrow(path):
    part = path.relative_to(PACKAGE).parts[0]
    found = {name.split('.')[1] for name in imports(path) if name.startswith('pano3d.')}
    if part in ALLOWED:
        assert found - {part} <= ALLOWED[part]
    else:  # modules at the top: registry, version, ...
        assert not found & {*SIBLINGS, 'engine', 'apis', 'mmdet3d'}


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_one_folder_knows_mmdet3d(path):
    if path.relative_to(PACKAGE).parts[0] != 'mmdet3d':
        assert not {name.split('.')[0] for name in imports(path)} & HEAVY


def test_the_import_reader_sees_relative_and_nested_imports(tmp_path):
    assert 'pano3d.models.query_decoder' in imports(PACKAGE / 'models' / 'panoptic_set_head.py')


def test_importing_the_package_loads_no_component_and_nothing_of_mmdet3d():
    code = 'import sys, pano3d; print(sorted(sys.modules))'
    loaded = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    modules = set(ast.literal_eval(loaded))
    assert 'pano3d' in modules
    assert not modules & {*HEAVY, 'pano3d.models', 'pano3d.datasets'}


def test_components_register_on_first_use_without_custom_imports():
    code = (
        'from mmengine.registry import MODELS, DefaultScope\n'
        'from pano3d.registry import MODELS as OURS, DATASETS, TRANSFORMS, METRICS, LOOPS, DATA_SAMPLERS\n'
        'assert OURS.get("Pano3D") and OURS.get("JointLoss") and OURS.get("PanopticSetHead")\n'
        'assert DATASETS.get("ScanNetMultiViewDataset") and TRANSFORMS.get("RandomStrideViews")\n'
        'assert METRICS.get("ScenePanopticMetric") and LOOPS.get("ReproducibleTrainLoop")\n'
        'assert DATA_SAMPLERS.get("InfiniteDrawSampler") and MODELS.get("pano3d.VGGTBackbone")\n'
    )
    subprocess.run([sys.executable, '-c', code], check=True, capture_output=True)
