"""What is said when a package of the host is missing or of another version, and that nothing else needs them."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from types import ModuleType

import pytest

from pano3d.mmdet3d.versions import SUPPORTED, require

HOSTS = ('mmcv', 'mmdet', 'mmdet3d', 'spconv')


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, version: str) -> None:
    module = ModuleType(name)
    module.__version__ = version
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr('pano3d.mmdet3d.versions.find_spec', lambda found: found)


@pytest.mark.parametrize('name', HOSTS)
def test_a_missing_package_is_one_line_with_the_command(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError) as caught:
        require(name)
    supported = SUPPORTED[name]
    assert str(caught.value) == (
        f'{name}>={supported.lowest},<{supported.beyond} is not installed: {supported.command}'
    )


def test_a_missing_requirement_names_who_needs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmcv', None)
    with pytest.raises(ImportError, match=r'^mmdet3d needs mmcv>=2\.1\.0,<2\.2\.0 is not installed: .*mmcv==2\.1\.0$'):
        require('mmdet3d')


@pytest.mark.parametrize(
    ('name', 'version', 'message'),
    [
        ('mmcv', '2.2.0', r'mmcv>=2\.1\.0,<2\.2\.0 expected, found mmcv 2\.2\.0: .*mmcv==2\.1\.0'),
        ('spconv', '1.2.1', r'spconv>=2\.3\.6,<2\.4\.0 expected, found spconv 1\.2\.1: pip install spconv==2\.3\.8'),
        ('numpy', '2.4.0', r"numpy>=1\.26,<2\.4 expected, found numpy 2\.4\.0: pip install 'numpy<2\.4'"),
    ],
)
def test_an_unsupported_version(name, version, message, monkeypatch):
    stand_in(monkeypatch, name, version)
    with pytest.raises(ImportError, match=f'^{message}$'):
        require(name)


def test_mmcv_without_its_operators(monkeypatch):
    stand_in(monkeypatch, 'mmcv', '2.1.0')
    monkeypatch.setattr('pano3d.mmdet3d.versions.find_spec', lambda found: None if found == 'mmcv._ext' else found)
    with pytest.raises(ImportError, match='with its compiled operators expected'):
        require('mmcv')


def test_a_supported_version(monkeypatch):
    stand_in(monkeypatch, 'spconv', '2.3.6')
    assert require('spconv').__version__ == '2.3.6'


@pytest.mark.slow
def test_without_any_of_them():
    """In a process that has none of them: the package works, our networks give maps, and what needs them says so."""
    code = """
        import sys
        for name in ('mmcv', 'mmdet', 'mmdet3d', 'spconv'):
            sys.modules[name] = None
        from mmengine.registry import DefaultScope
        from pano3d.registry import METRICS, MODELS
        with DefaultScope.overwrite_default_scope('pano3d'):
            assert MODELS.get('VGGTFeatures') and MODELS.get('Pano3D')
            try:
                METRICS.build(dict(type='Det3DMetric', metric='semantic', label_space='scannet20'))
            except ImportError as error:
                print(error)
    """
    run = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    command = SUPPORTED['mmcv'].command
    assert run.stdout.splitlines()[-1].endswith(f'mmdet3d needs mmcv>=2.1.0,<2.2.0 is not installed: {command}')
