"""`pano3d::NAME.py` means the file configs/NAME.py of this repository, from any directory and install."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
READ_CHILD = """
    import sys
    import pano3d
    from mmengine.config import Config

    config = Config.fromfile(sys.argv[1])
    print(pano3d.__file__)
    print(config.added)
    print(config.model.type)
"""


def read_child_config(folder: Path, base: str, pythonpath: str | None = None) -> subprocess.CompletedProcess:
    """Write a config on `base` into `folder` and read it in a new process that runs there."""
    child = folder / 'child.py'
    child.write_text(f"_base_ = '{base}'\nadded = 'by the child'\n", encoding='utf-8')
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    if pythonpath is not None:
        environment['PYTHONPATH'] = pythonpath
    return subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', textwrap.dedent(READ_CHILD), str(child)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def assert_child_read(run: subprocess.CompletedProcess, package: Path) -> None:
    assert run.returncode == 0, run.stderr
    package_file, added, model_type = run.stdout.splitlines()[-3:]
    assert Path(package_file) == package / '__init__.py'
    assert added == 'by the child'
    assert model_type.split('.')[-1] == 'Pano3D'


def test_editable_install_resolves_the_scope(tmp_path: Path) -> None:
    run = read_child_config(tmp_path, 'pano3d::pano3d_vggt_scannet.py')
    assert_child_read(run, ROOT / 'projects' / 'Pano3D' / 'pano3d')


def test_unknown_config_is_refused(tmp_path: Path) -> None:
    run = read_child_config(tmp_path, 'pano3d::no_such_config.py')
    assert run.returncode != 0
    assert 'FileNotFoundError' in run.stderr
    assert 'no_such_config.py' in run.stderr


@pytest.mark.slow
def test_wheel_install_resolves_the_scope(tmp_path: Path) -> None:
    # A copy is built, since setuptools leaves its intermediate files in the source folder.
    source, wheels, target, elsewhere = (tmp_path / name for name in ('source', 'wheels', 'target', 'elsewhere'))
    for folder in ('projects', 'configs', 'tools'):
        ignored = shutil.ignore_patterns('.mim', '__pycache__', '*.egg-info')
        shutil.copytree(ROOT / folder, source / folder, ignore=ignored)
    shutil.copy(ROOT / 'setup.py', source)
    elsewhere.mkdir()

    pip = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check']
    offline = ['--no-deps', '--no-index']
    build = ['wheel', *offline, '--no-build-isolation', '--wheel-dir', str(wheels), str(source)]
    subprocess.run([*pip, *build], check=True, timeout=300)
    (wheel,) = wheels.glob('pano3d-*.whl')
    subprocess.run([*pip, 'install', *offline, '--target', str(target), str(wheel)], check=True, timeout=300)
    shutil.rmtree(source)

    assert (target / 'pano3d' / '.mim' / 'tools' / 'train.py').is_file()
    assert_child_read(read_child_config(elsewhere, 'pano3d::pano3d_vggt_scannet.py', str(target)), target / 'pano3d')
